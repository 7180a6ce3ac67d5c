"""What a run of eight generations costs a resume: the files of each finished generation that it reads, and seconds.

python tests/benchmarks/resuming.py, six minutes on two cores

The run is small, and goes on in this process from three places: its end, an eighth generation that was trained and not
yet evaluated, and one that has not begun. What Python opens is seen by an audit hook, what ArrayRecord opens by a
reader that tells; Orbax opens something in Python for all weights that it loads.
"""

import collections
import os
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from etils import epath
from figures import report

from ratchet.bootstrap import loop
from ratchet.bootstrap.config import from_json
from ratchet.bootstrap.ledger import STAGES
from ratchet.bootstrap.progress import Silent
from ratchet.launch import cli
from ratchet.train import files
from ratchet.train.commits import Commits, commits_in

RESULT = Path(__file__).parent / "results" / "resuming.json"
GENERATIONS = 8
SETTINGS = "--lessons.slice 3 --wrongthink.first-generation 2 --controls.no-imitation --evaluate.rollbacks 8"
LEFT = {
    "finished": (),
    "trained": ("DONE.json", "decision.json", "evaluation.json"),
    "begun": ("*",),
}
"""What is removed of the last generation, so that there is something to go on with."""
BOUNDS = {
    "finished": {"files beyond those committed": 0, "units": 0, "datasets": 0, "weights": 0},
    "trained": {"datasets": 0},
    "begun": {"datasets": 2},
}
"""Per finished generation. What was committed may be opened, each file to be compared with its hash, and nothing else.
Units are read where there is something left to evaluate or correct, the incumbent's weights where anything is left."""


class Reads:
    """Notes every path that is opened to be read while it is on."""

    def __init__(self):
        self.paths: list[str] | None = None
        sys.addaudithook(self._hear)
        real = files.ArrayRecordReader
        files.ArrayRecordReader = lambda path: self._note(path) or real(path)

    def _hear(self, event: str, given: tuple) -> None:
        if event == "open" and isinstance(given[0], str) and not str(given[1] or "r").strip("rbt"):
            self._note(given[0])

    def _note(self, path: str) -> None:
        if self.paths is not None:
            self.paths.append(path)


def whole_run(directory: Path) -> Path:
    """A run of eight generations, made by the command."""
    words = ["run", "tiny", "--generations", str(GENERATIONS), *SETTINGS.split(), "--out", str(directory)]
    assert cli.main(words) == 0
    return directory


def with_something_left(whole: Path, left: str) -> Path:
    """A copy of the run without what is removed of its last generation."""
    directory = whole.with_name(left)
    shutil.copytree(whole, directory)
    for pattern in LEFT[left]:
        for path in (directory / f"gen-{GENERATIONS:03d}").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "begun":
        shutil.rmtree(directory / "checkpoints" / f"loop-{GENERATIONS:03d}")
    return directory


def committed(directory: Path) -> set[str]:
    """The files by which the generations of a run are committed, those of its units among them."""
    place, found = epath.Path(directory), []
    for number in range(1, GENERATIONS + 1):
        generation = place / f"gen-{number:03d}"
        found += [*Commits(place).within(generation), *(c for stage in STAGES for c in commits_in(generation / stage))]
    return {str(path.relative_to(place)) for path in found}


def resuming(whole: Path, reads: Reads, left: str) -> dict[str, float]:
    """Goes on with a copy of the run; figures of the finished generations, each file counted once."""
    directory, passed = with_something_left(whole, left), loop.finished
    spent = []

    def finished(run, number: int):
        began = time.monotonic()
        past = passed(run, number)
        spent.append(time.monotonic() - began)
        return past

    loop.finished, reads.paths, began = finished, [], time.monotonic()
    loop.run(epath.Path(directory), from_json((directory / "config.json").read_text()), Silent())
    seconds, paths = time.monotonic() - began, set(reads.paths)
    loop.finished, reads.paths = passed, None
    count = GENERATIONS - bool(LEFT[left])
    places = {f"gen-{n:03d}" for n in range(1, count + 1)}
    parts = [Path(p).relative_to(directory).parts for p in paths if Path(p).is_relative_to(directory)]
    kinds = collections.Counter(p[1] for p in parts if len(p) > 1 and p[0] in places)
    records = collections.Counter(p[1] for p in parts if p and p[0] in places and ".array_record" in p[-1])
    of = lambda *names: sum(records[name] for name in names) / count
    beyond = {"/".join(p) for p in parts if len(p) > 1 and p[0] in places} - committed(directory)
    return {
        "seconds": seconds,
        "milliseconds to pass a generation": 1000 * sum(spent[:count]) / count,
        "files": sum(kinds.values()) / count,
        "files beyond those committed": len(beyond) / count,
        "units": of("simulate", "review", "targets", "wrongthink", "corrections"),
        "datasets": of("dataset"),
        "weights": kinds["model"] / count,
    }


def main(names: list[str]) -> None:
    reads, place = Reads(), Path(tempfile.mkdtemp(prefix="resuming-"))
    whole = whole_run(place / "whole")
    report(names, {left: partial(resuming, whole, reads, left) for left in LEFT}, BOUNDS, RESULT)


if __name__ == "__main__":
    main(sys.argv[1:])

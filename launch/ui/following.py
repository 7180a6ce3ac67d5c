"""The runs that are shown. A thread draws their reports and indexes their transcripts, so that no page waits for
that."""

import contextlib
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from etils import epath

from ratchet.bootstrap.report import page
from ratchet.bootstrap.report.live import Watched
from ratchet.launch.lines import UserError
from ratchet.launch.ui.index import Index, cached
from ratchet.launch.ui.labels import Labels
from ratchet.launch.ui.sources import Sources

TURN = 0.001
"""Seconds for which the thread may hold up a page; Python's own 5 ms add up, since a page asks for many rows."""
EVERY = 2.0
"""Seconds between two looks at the files of a run."""


@dataclass
class Shown:
    """A run that is shown: its name among the others, its index, and why that could not be updated or its report not
    be drawn, if so."""

    name: str
    directory: epath.Path
    index: Index
    watched: Watched
    sources: Sources
    failure: str = ""
    undrawn: str = ""
    report: dict[str, Any] | None = None
    """What the template of the report shows, as it was last made."""
    wanted: bool = True
    """Whether somebody has looked at the report since then."""
    looking: threading.Lock = field(default_factory=threading.Lock)
    _files: tuple = ()

    @cached_property
    def labels(self) -> Labels:
        """What people say of its answers."""
        return Labels(self.directory)

    def look(self) -> dict[str, Any]:
        """What is known of the run now, with its acceptance as far as it is indexed."""
        with self.looking:
            return self.watched.look(reviews=False)

    def draw(self) -> None:
        """Makes the report anew, if somebody wants it and files have changed."""
        if not self.wanted or not (self.directory / "config.json").exists():
            return
        self.wanted = False  # now: whoever asks meanwhile wants another
        files = _fingerprint(self.directory)
        if files != self._files:
            self.report, self._files = page.content(self.directory), files


def _fingerprint(directory: epath.Path) -> tuple:
    """What is another once a file has changed that a report is made of."""
    files = [f for pattern in ("*.json*", "*/*.json", "*/*/unit-*.json") for f in directory.glob(pattern)]
    stats = [(os.fspath(f), f.stat()) for f in sorted(files) if f.name != "working.json"]
    return tuple((name, s.mtime, s.length) for name, s in stats)


@contextlib.contextmanager
def following(places: Sequence[epath.Path]) -> Iterator[list[Shown]]:
    """Within, the runs in these directories are followed. Raises UserError where no index can be written."""
    runs = [_shown(place, name) for place, name in zip(places, _names(places), strict=True)]
    stopped, usual = threading.Event(), sys.getswitchinterval()
    sys.setswitchinterval(TURN)
    thread = threading.Thread(target=_follow, args=(runs, stopped), name="indexing", daemon=True)
    thread.start()
    try:
        yield runs
    finally:
        stopped.set()
        thread.join()
        sys.setswitchinterval(usual)


def _shown(place: epath.Path, name: str) -> Shown:
    index = Index(place, cached(place))
    try:
        index.prepare()
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"ui: cannot write {index.file} ({error}); make room there, or let that be written") from error
    return Shown(name, place, index, Watched(place), Sources(place))


def _names(places: Sequence[epath.Path]) -> list[str]:
    """The names of directories, with more of their paths where several are named alike."""
    short = [place.name or str(place) for place in places]
    return [name if short.count(name) == 1 else str(place) for name, place in zip(short, places, strict=True)]


def _follow(runs: Sequence[Shown], stopped: threading.Event) -> None:
    while not stopped.is_set():
        more = False
        for run in runs:
            if run.wanted:
                _, run.undrawn = _attempt(run.draw)
            added, run.failure = _attempt(run.index.update)
            more |= bool(added)
        if not more:
            stopped.wait(EVERY)


def _attempt(do: Callable[[], Any]) -> tuple[Any, str]:
    """What something returns, and why it could not be done, if so. A store's client may raise anything, and may not the
    next time."""
    try:
        return do(), ""
    except Exception as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())}"

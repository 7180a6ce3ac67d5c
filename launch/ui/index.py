"""The transcripts of a run in an SQLite file, so that a hundred thousand of them are searched in a moment.

The file lies in the cache of whoever looks, and nothing is written into the run. Units are added as they are committed;
where one that was read is another by now, the index is made anew.
"""

import contextlib
import hashlib
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from ratchet.bootstrap.report.files import generation_directories
from ratchet.bootstrap.report.units import Unit, units, verdicts_in

VERSION = 1
"""The version of the tables; a file of another one is made anew."""
STAGES = ("simulate", "review", "wrongthink")
"""Stages whose units are read, in this order: a review follows its transcript."""
PAIRS = "wrongthink"
"""The stage whose units hold a correction, then its review, and so on."""
TRANSCRIPT = {"id", "task_id", "generation", "source", "text", "forced_text"}
REVIEW = {"transcript_id", "verdicts", "accepted"}
"""What records of transcripts and of reviews have; a unit with others counts as damaged."""
TABLES = Path(__file__).with_name("tables.sql")
"""The tables of an index, in SQL."""


def cached(directory: epath.Path) -> Path:
    """Where the index of a run lies."""
    where = os.fspath(directory) if "://" in os.fspath(directory) else os.path.realpath(directory)
    name = hashlib.sha256(where.encode()).hexdigest()[:24]
    return Path.home() / ".cache" / "ratchet" / "transcripts" / f"{name}.sqlite"


class Index:
    """The index of one run. One thread updates it; any may `open` it to read."""

    def __init__(self, directory: epath.Path, file: Path):
        self._directory, self.file = directory, file
        self._known: dict[str, str] = {}
        self._damaged: dict[str, tuple[float, int] | None] = {}
        self._coming: dict[str, Unit] | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A connection that reads, to whatever is indexed by now."""
        with contextlib.closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def prepare(self) -> None:
        """Makes the file, empty, unless there is one of this version that is whole."""
        self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with self._writing() as connection:
                known = connection.execute("pragma user_version").fetchone()[0] == VERSION
                self._known = dict(connection.execute("select path, sha256 from unit")) if known else {}
                damaged = connection.execute("select path from unit where damaged") if known else ()
                self._damaged = dict.fromkeys(path for (path,) in damaged)
        except sqlite3.DatabaseError:
            known = False
        if not known:
            self._begin()

    def update(self) -> bool:
        """Adds the next unit that was committed; returns whether there was one."""
        if not self._coming:
            there = self._units()
            if any(self._is_another(path, there.get(path)) for path in self._known):
                self._begin()
            self._coming = {path: unit for path, unit in there.items() if path not in self._known}
        if not self._coming:
            return False
        path, unit = next(iter(self._coming.items()))
        looks = _looks(unit)
        with self._writing() as connection, connection:
            damaged = _add(connection, path, unit)
        self._known[path] = unit.sha256
        if damaged:
            self._damaged[path] = looks
        # Where a unit is damaged, others may be too that were replaced meanwhile: they are looked up again.
        self._coming = None if damaged else {at: other for at, other in self._coming.items() if at != path}
        return True

    def left(self) -> int:
        """Units that were committed at the last look, and are not yet indexed."""
        coming = self._coming
        return sum(path not in self._known for path in self._units()) if coming is None else len(coming)

    def _is_another(self, path: str, unit: Unit | None) -> bool:
        """Whether a unit that was indexed is another by now, or gone, or was damaged and is whole again. What looks as
        it did then is not read again."""
        if unit is None or unit.sha256 != self._known[path]:
            return True
        if path not in self._damaged or (looks := _looks(unit)) == self._damaged[path]:
            return False
        whole = _records(unit) is not None
        self._damaged[path] = looks
        return whole

    def _units(self) -> dict[str, Unit]:
        """The committed units by their paths in the run's directory, in the order in which they are read."""
        if not self._directory.exists():
            return {}
        places = generation_directories(self._directory).values()
        found = [unit for place in places for stage in STAGES for unit in units(place / stage)]
        return {unit.path.relative_to(self._directory).as_posix(): unit for unit in found}

    def _begin(self) -> None:
        """Makes the file anew, with empty tables."""
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()
        with self._writing() as connection:
            connection.execute("pragma journal_mode = wal")
            connection.executescript(f"{TABLES.read_text()} pragma user_version = {VERSION};")
        self._known, self._damaged = {}, {}

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.file)) as connection:
            connection.execute("pragma synchronous = off")
            yield connection


def _records(unit: Unit) -> list[dict[str, Any]] | None:
    """What a unit holds; None where it is damaged."""
    records, stage = unit.records(), unit.path.parent.name
    needed, step = REVIEW if stage == "review" else TRANSCRIPT, 2 if stage == PAIRS else 1
    return None if records and any(needed - r.keys() for r in records[::step]) else records


def _looks(unit: Unit) -> tuple[float, int] | None:
    """When a unit's file was written, and its size; None where it is not there, or does not say so."""
    try:
        found = unit.path.stat()
    except Exception:  # a store's client may raise anything; the next look may succeed
        return None
    return found.mtime, found.length


def _add(connection: sqlite3.Connection, path: str, unit: Unit) -> bool:
    """Adds what a unit holds, unless another process did; a damaged unit is only noted. Returns whether it was."""
    records, stage = _records(unit), unit.path.parent.name
    pairs, step = stage == PAIRS, 2 if stage == PAIRS else 1
    entry = path, unit.sha256, records is None
    added = connection.execute("insert or ignore into unit (path, sha256, damaged) values (?, ?, ?)", entry)
    if not added.rowcount:
        return bool(connection.execute("select damaged from unit where path = ?", (path,)).fetchone()[0])
    if not records:
        return records is None
    if stage != "review":
        _add_transcripts(connection, added.lastrowid, [(i, records[i]) for i in range(0, len(records), step)])
    if stage == "review" or pairs:
        _add_reviews(connection, records[1::2] if pairs else records, counted=not pairs)
    return False


def _add_transcripts(
    connection: sqlite3.Connection, unit: int, records: Sequence[tuple[int, Mapping[str, Any]]]
) -> None:
    rows = [
        (r["id"], unit, place, r["generation"], r["task_id"], r["source"], question(r), _plain(r["text"]),
         _plain(r["forced_text"]))
        for place, r in records
    ]  # fmt: skip
    fields = "id, unit, place, generation, task, source, question, answer, thought"
    connection.executemany(f"insert or ignore into transcript ({fields}) values (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.execute(
        "insert into text (rowid, question, answer, thought) "
        "select number, question, answer, thought from transcript where unit = ?", (unit,)
    )  # fmt: skip


def _add_reviews(connection: sqlite3.Connection, reviews: Sequence[Mapping[str, Any]], counted: bool) -> None:
    """Verdicts on transcripts that are there; answers, not corrections, are counted by criterion."""
    criteria = {name for review in reviews for name in verdicts_in(review)}
    connection.executemany("insert or ignore into criterion (name) values (?)", [(name,) for name in sorted(criteria)])
    ids = dict(connection.execute("select name, id from criterion"))
    for review in reviews:
        verdicts = verdicts_in(review)
        repeats = "distinct" in verdicts and not verdicts["distinct"].passed
        found = connection.execute(
            "update transcript set accepted = ?, repeats = ? where id = ? returning number, generation",
            (bool(review["accepted"]), repeats, review["transcript_id"]),
        ).fetchone()
        if not found:
            continue
        number, generation = found
        rows = [(ids[name], verdict.passed, number) for name, verdict in verdicts.items()]
        connection.executemany("insert or replace into verdict values (?, ?, ?)", rows)
        if counted:
            connection.executemany(
                "insert into passed values (?, ?, ?) on conflict do update set count = count + excluded.count",
                [(generation, criterion, passed) for criterion, passed, _ in rows],
            )


def question(record: Mapping[str, Any]) -> str:
    """What was asked of a transcript: the last message of the user."""
    messages = record.get("messages") or ()
    return next((_plain(m.get("content")) for m in reversed(messages) if m.get("role") == "user"), "")


def _plain(text: Any) -> str:
    """A text that SQLite takes: halves of letters are spelled out."""
    return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) if isinstance(text, str) else ""

"""What each page shows, and its HTML. Everything of a run is escaped, as in the report."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath
from markupsafe import Markup, escape

from ratchet.bootstrap.certificate import OVERALL
from ratchet.bootstrap.report import page, tables
from ratchet.bootstrap.report.numbers import value_of
from ratchet.bootstrap.report.status import status
from ratchet.bootstrap.report.tables import Across
from ratchet.bootstrap.report.units import Unit, advisory_in, verdicts_in
from ratchet.launch.ui import labels, search
from ratchet.launch.ui.following import Shown
from ratchet.launch.ui.search import MARKS, Query
from ratchet.train.files import object_in

ELSEWHERE = 12
"""Other answers to the same task that are shown beside one."""
SHORT = 600
"""Characters of an answer in a list."""


class Missing(LookupError):
    """There is no such thing; shown as one line."""


class Pages:
    """Makes the pages about some runs."""

    def __init__(self, runs: Sequence[Shown]):
        self._runs = runs
        self._templates = page.environment(Path(__file__).parent)
        self._templates.filters |= {"marked": marked, "shortened": shortened}

    def run(self, number: int) -> Shown:
        """A run by its number in the order given. Raises Missing when there is none."""
        if not 0 <= number < len(self._runs):
            raise Missing(f"there is no run {number}; there are {len(self._runs)}")
        return self._runs[number]

    def overview(self) -> str:
        """Every run as it is now, and the generations of all of them side by side."""
        looks = [self._now(number) for number in range(len(self._runs))]
        known = {
            now["run"].name: status(now["run"].directory) for now in looks if now["live"]["state"] != "not begun"
        }
        return self._shown("runs", looks=looks, table=side_by_side(known))

    def live(self, number: int) -> str:
        """What a run does now."""
        return self._shown("now", **self._now(number))

    def report(self, number: int) -> str:
        """The report of a run as it was last drawn. That it was asked for has it drawn anew where files have
        changed."""
        run, now = self.run(number), self._now(number)
        run.wanted = True
        return self._shown("run", **now, **run.report) if run.report else self._shown("begins", **now)

    def transcripts(self, number: int, query: Query) -> str:
        """What a search finds."""
        run = self.run(number)
        with run.index.open() as connection:
            found = search.search(connection, query)
            failed = search.failed(connection, [row["id"] for row in found.rows])
            there = connection.execute("select distinct generation from transcript order by generation desc")
            generations = [row["generation"] for row in there]
            criteria = labels.criteria(connection)[1:]
            state = self._indexed(run, connection)
        standing = {of: advisory_in(run.directory / f"gen-{of:03d}") for of in generations}
        asked = {"query": query, "found": found, "failed": failed, "generations": generations, "criteria": criteria}
        known = {"run": run, "indexed": state, "by_lot": by_lot(run.directory), "advisory_in": standing}
        return self._shown("transcripts", number=number, **known, **asked)

    def transcript(self, number: int, name: str, criterion: str = OVERALL) -> str:
        """One transcript: what was in view and asked, the answer, labels, verdicts, and answers to the same task."""
        run, wrong = self.run(number), ""
        with run.index.open() as connection:
            row = self.row(connection, name)
            others = connection.execute(
                "select id, generation, source, accepted, answer, thought from transcript where task = ? and id != ? "
                "order by generation desc, number limit ?", (row["task"], name, ELSEWHERE)
            ).fetchall()  # fmt: skip
            criteria = labels.criteria(connection)
            try:
                said = run.labels.read()
            except ValueError as error:
                said, wrong = {}, str(error)
            following = labels.next_one(connection, row["generation"], criterion, said)
            record, review = _records(connection, run.directory, row)
        try:
            passages, why_not = run.sources.texts(record.get("passages") or ()), ""
        except (ValueError, OSError) as error:
            passages, why_not = [], " ".join(str(error).split())
        shown = {"row": row, "record": record, "verdicts": verdicts_in(review), "passages": passages, "others": others}
        mine = {at: right for (transcript, at), right in said.items() if transcript == name}
        asked = {"criteria": criteria, "criterion": criterion, "mine": mine, "following": following, "wrong": wrong}
        standing = advisory_in(run.directory / f"gen-{row['generation']:03d}")
        known = {"run": run, "why_not": why_not, "by_lot": by_lot(run.directory), "advisory": standing}
        return self._shown("transcript", number=number, **known, **shown, **asked)

    def message(self, line: str) -> str:
        """A line about what cannot be shown."""
        return self._shown("message", line=line)

    def row(self, connection: sqlite3.Connection, name: str) -> sqlite3.Row:
        """A transcript by its id. Raises Missing when there is none."""
        found = connection.execute(
            "select transcript.*, path from transcript join unit on unit.id = unit where transcript.id = ?", (name,)
        ).fetchone()
        if not found:
            raise Missing(f"there is no transcript {name} here; it may be yet to be indexed")
        return found

    def _now(self, number: int) -> dict[str, Any]:
        run = self.run(number)
        found = run.look()
        with run.index.open() as connection:
            return {"live": found | {"acceptance": acceptance(connection)}, "number": number, "run": run}

    def _indexed(self, run: Shown, connection: sqlite3.Connection) -> dict[str, Any]:
        damaged = [row["path"] for row in connection.execute("select path from unit where damaged")]
        count = connection.execute("select count(*) from transcript").fetchone()[0]
        return {"count": count, "left": run.index.left(), "damaged": damaged, "failure": run.failure}

    def _shown(self, name: str, **content: Any) -> str:
        return self._templates.get_template(f"{name}.html.jinja").render(runs=self._runs, **content)


def side_by_side(known: Mapping[str, Mapping[str, Any]]) -> Across | None:
    """The tables of generations of several runs as one, a column for each generation of each run."""
    found = {name: table for name, state in known.items() if (table := tables.generations(state))}
    if not found:
        return None
    several = len(found) > 1
    head = lambda name, column: f"{name} {column}" if several else column
    rows = {row.name: row for table in found.values() for row in table.rows}
    cells = {
        title: [cell for table in found.values() for cell in _cells(table, title)] for title in rows
    }  # fmt: skip
    columns = [head(name, column) for name, table in found.items() for column in table.columns]
    marked_as = lambda part: [head(name, column) for name, table in found.items() for column in getattr(table, part)]
    shown = [row._replace(cells=cells[title]) for title, row in rows.items()]
    return Across(columns, shown, marked_as("arms"), marked_as("dropped"))


def _cells(table: Across, title: str) -> Sequence[tables.Cell]:
    """The cells of a row of a table, dashes where it has none."""
    return next((row.cells for row in table.rows if row.name == title), [tables.Cell("–")] * len(table.columns))


def by_lot(directory: epath.Path) -> bool:
    """Whether lots accept the answers of a run, whatever their verdicts are."""
    controls = object_in(directory / "config.json").get("controls")
    return bool(isinstance(controls, Mapping) and value_of(controls.get("random_share")))


def acceptance(connection: sqlite3.Connection) -> dict[str, Any] | None:
    """How many answers of the newest generation with reviews pass, as far as they are indexed."""
    counted = connection.execute(
        "select generation, count(*) reviewed, sum(accepted) accepted from transcript where source = 'answer' and "
        "accepted is not null group by generation order by generation desc limit 1"
    ).fetchone()
    if not counted:
        return None
    passed = connection.execute(
        "select name, count from passed join criterion on id = criterion where generation = ? order by count",
        (counted["generation"],),
    )
    criteria = {row["name"]: row["count"] / counted["reviewed"] for row in passed}
    shares = {"accepted": counted["accepted"] / counted["reviewed"], "criteria": criteria}
    return {"generation": counted["generation"], "reviewed": counted["reviewed"]} | shares


def _records(
    connection: sqlite3.Connection, directory: epath.Path, row: sqlite3.Row
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """A transcript and its review, {} before there is one, as they were committed. Raises Missing where they cannot be
    read."""

    def read(path: str) -> list[dict[str, Any]] | None:
        unit = connection.execute("select sha256 from unit where path = ?", (path,)).fetchone()
        return Unit(directory / path, unit["sha256"]).records() if unit else None

    records = read(row["path"])
    if records is None:
        raise Missing(f"{directory / row['path']} cannot be read, or is not what was committed")
    record, place = records[row["place"]], row["path"]
    if "/wrongthink/" in place:
        return record, records[row["place"] + 1]
    reviews = read(place.replace("/simulate/", "/review/")) or []
    return record, next((r for r in reviews if r.get("transcript_id") == row["id"]), {})


def marked(text: str) -> Markup:
    """A text with the words that were searched for marked; all of it is escaped."""
    opened, closed = MARKS
    return Markup(str(escape(text)).replace(opened, "<mark>").replace(closed, "</mark>"))


def shortened(text: str) -> str:
    """The beginning of a text that is long, or where it is marked."""
    if len(text) <= SHORT:
        return text
    start = max(text.find(MARKS[0]) - SHORT // 3, 0)
    part = text[start : start + SHORT]
    part += MARKS[1] * (part.count(MARKS[0]) - part.count(MARKS[1]))
    return f"{'… ' if start else ''}{part} …"

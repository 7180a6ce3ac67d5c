"""What is asked of an index of transcripts, and what it finds."""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import urlencode

PAGE = 20
"""Transcripts on a page."""
MARKS = "\x02", "\x03"
"""What stands around a word that was searched for, until it is shown."""
VERDICTS = {"passed": 1, "failed": 0}
KINDS = {"answers": "source = 'answer'", "corrections": "source != 'answer'"}
TEXTS = ("question", "answer", "thought")
"""What is searched of a transcript."""
SHOWN = "id, generation, source, accepted"
"""What is shown of it beside that."""
RANKED = 5000
"""Matches at most that are put in order of how good they are."""
MOST = 10**6
"""The last page, and the last generation, that can be asked for."""


class Wrong(ValueError):
    """What was asked cannot be read; shown as one line."""


@dataclass(frozen=True)
class Query:
    """What is searched for; "" and None ask for anything. A verdict is that of the criterion, or without one of the
    whole review."""

    words: str = ""
    criterion: str = ""
    generation: int | None = None
    verdict: str = ""
    kind: str = ""
    page: int = 1

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Query":
        """From the parameters of an address. Raises Wrong for what is none."""
        plain = {name: re.sub(r"[\x00-\x1f\ud800-\udfff]", " ", text).strip() for name, text in given.items()}
        known = {f.name: plain[f.name] for f in fields(cls) if plain.get(f.name)}
        numbers = {name: _number(name, known[name]) for name in ("generation", "page") if name in known}
        for name, allowed in (("verdict", VERDICTS), ("kind", KINDS)):
            if known.get(name) not in (None, *allowed):
                raise Wrong(f"{name}: {known[name]!r} is none; there are {', '.join(allowed)}")
        return cls(**known | numbers)

    def address(self, **changes: Any) -> str:
        """The parameters of this query, or of one with changes."""
        asked = replace(self, **changes)
        left = {f.name: getattr(asked, f.name) for f in fields(asked) if getattr(asked, f.name) != f.default}
        return f"?{urlencode(left)}"


def _number(name: str, text: str) -> int:
    least = 1 if name == "page" else 0
    if not re.fullmatch(r"\d{1,7}", text) or not least <= int(text) <= MOST:
        raise Wrong(f"{name}: {text!r} is not a number from {least} to {MOST}")
    return int(text)


class Found(NamedTuple):
    """The transcripts of one page, how many there are in all, and whether the words stand within others."""

    rows: Sequence[sqlite3.Row]
    count: int
    within: bool = False

    @property
    def pages(self) -> int:
        """How many pages there are, one at least."""
        return max(-(-self.count // PAGE), 1)


def search(connection: sqlite3.Connection, query: Query) -> Found:
    """What is asked for: the best matches first, without words or with too many matches the newest. Where nothing
    begins with the words, they are looked for within others, as languages that put no spaces need it."""
    conditions, given = _conditions(connection, query)
    words = [quoted or word for quoted, word in re.findall(r'"([^"]+)"|([^\s"]+)', query.words)]
    if not words:
        return _listed(connection, query, conditions, given)
    asked = " ".join('"{}"{}'.format(word.replace('"', '""'), "" if " " in word else "*") for word in words)
    found = _matched(connection, query, asked, conditions, given)
    if found.count:
        return found
    anywhere = ["instr(lower(question || ' ' || thought || ' ' || answer), lower(?)) > 0"] * len(words)
    found = _listed(connection, query, [*conditions, *anywhere], [*given, *words])
    return found._replace(within=bool(found.count))


def _listed(connection: sqlite3.Connection, query: Query, conditions: Sequence[str], given: Sequence[Any]) -> Found:
    """Transcripts under some conditions, the newest generation first."""
    where = f"from transcript where {' and '.join(conditions) or 'true'}"
    count = connection.execute(f"select count(*) {where}", given).fetchone()[0]
    some = f"select number {where} order by generation desc, number limit ? offset ?"
    rows = connection.execute(
        f"select {SHOWN}, {', '.join(TEXTS)} from transcript where number in ({some}) order by generation desc, number",
        [*given, PAGE, (query.page - 1) * PAGE],
    )
    return Found(rows.fetchall(), count)


def _matched(
    connection: sqlite3.Connection, query: Query, asked: str, conditions: Sequence[str], given: Sequence[Any]
) -> Found:
    """Transcripts that words match, which are marked in those of one page alone."""
    among = f"and +rowid in (select number from transcript where {' and '.join(conditions)})" if conditions else ""
    where = f"from text where text match ? {among}"
    # As one row: the interpreter's lock, which is asked for at every row, may be held by who indexes.
    all_of = lambda order: f"select json_group_array(rowid) from (select rowid {where} order by {order})"
    numbers = json.loads(connection.execute(all_of("rowid desc"), [asked, *given]).fetchone()[0])
    if len(numbers) <= RANKED:
        numbers = json.loads(connection.execute(all_of("rank"), [asked, *given]).fetchone()[0])
    some = numbers[(query.page - 1) * PAGE : query.page * PAGE]
    texts = ", ".join(f"highlight(text, {at}, char(2), char(3)) {name}" for at, name in enumerate(TEXTS))
    rows = connection.execute(
        f"select number, {SHOWN}, {texts} from text join transcript on number = text.rowid where text match ? "
        f"and +text.rowid in ({', '.join('?' * len(some))})",
        [asked, *some],
    )
    return Found(sorted(rows, key=lambda row: some.index(row["number"])), len(numbers))


def _conditions(connection: sqlite3.Connection, query: Query) -> tuple[list[str], list[Any]]:
    conditions, given = [], []
    if query.generation is not None:
        conditions.append("generation = ?")
        given.append(query.generation)
    if query.kind:
        conditions.append(KINDS[query.kind])
    if query.criterion:
        known = connection.execute("select id from criterion where name = ?", (query.criterion,)).fetchone()
        if known is None:
            raise Wrong(f"criterion: there is none named {query.criterion!r}")
        among = "?" if query.verdict else "0, 1"
        conditions.append(f"number in (select transcript from verdict where criterion = ? and passed in ({among}))")
        given += [known["id"], *([VERDICTS[query.verdict]] if query.verdict else [])]
    elif query.verdict:
        conditions.append("accepted = ?")
        given.append(VERDICTS[query.verdict])
    return conditions, given


def failed(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    """The criteria that transcripts failed, by id."""
    found: dict[str, list[str]] = {i: [] for i in ids}
    # In this order: SQLite would read all verdicts first.
    rows = connection.execute(
        "select transcript.id, name from transcript cross join criterion cross join verdict on "
        "verdict.criterion = criterion.id and passed = 0 and verdict.transcript = number "
        f"where transcript.id in ({', '.join('?' * len(ids))})",
        list(ids),
    )
    for i, name in rows:
        found[i].append(name)
    return found

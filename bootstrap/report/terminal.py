"""The run in a terminal: who works on it, its stages, and its figures, on whatever width there is."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ratchet.bootstrap.report.numbers import percent
from ratchet.bootstrap.report.outlook import Left, in_words, roughly
from ratchet.bootstrap.report.status import EXPLAINED, UNIT_STAGES, WHOLE_STAGES, cells, described, header, in_columns
from ratchet.train.files import typed

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Letters that a terminal obeys, but for tabs and line breaks."""


@dataclass(frozen=True)
class Fitted:
    """Rows of cells under heads. Where they are too wide for the terminal, rows become columns, in as many tables below
    each other as it takes. A caption explains the heads. Without rows, nothing is shown."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: Sequence[str] = ()

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        if not self.rows:
            return
        if _width(list(zip(self.heads, *self.rows, strict=True))) <= console.width:
            yield _table(self.heads, self.rows)
        else:
            left, shown = self.heads, list(self.rows)
            while shown:
                count = len(shown)
                while count > 1 and _width([left, *shown[:count]]) > console.width:
                    count -= 1
                heads, *rows = zip(left, *shown[:count], strict=True)
                yield _table(heads, rows)
                shown = shown[count:]
        yield from (Text(line, style="dim") for line in self.caption)


def shown(text: str, style: str = "", **more: Any) -> Text:
    """Words of a model or a document, in which nothing is markup and nothing moves a terminal's cursor: control letters
    are spelled out, but for line breaks and tabs."""
    return Text(CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text), style, **more)


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Of a table with these columns, an edge on both sides and a space between them."""
    return sum(max(map(cell_len, column)) for column in columns) + len(columns) + 1


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0))
    for number, name in enumerate(heads):
        table.add_column(Text(name), justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def figures(status: Mapping[str, Any]) -> Fitted:
    """Generations and the other arms, one row each; rates in per cent."""
    metrics = in_columns(status["metrics"])
    rows = [cells(row, metrics) for row in status["generations"]]
    rows += [[arm, *cells(row, metrics)[1:]] for arm, row in status["baselines"].items()]
    heads = header(metrics)
    fixed = [f"{head}: {EXPLAINED[head].removesuffix(', %')}" for head in heads if head in EXPLAINED]
    return Fitted(heads, rows, ["rates in %", *fixed, *_caption(metrics, status["baselines"])])


def _caption(metrics: Mapping[str, dict], baselines: Mapping[str, dict]) -> list[str]:
    """What the columns of metrics mean, and what an arm that was asked in another form than a chat gets in a chat."""
    lines = [f"{m['column']}: {described(m)}" for m in metrics.values()]
    for arm, row in baselines.items():
        if row["form"] not in (None, "chat"):
            chat = [f"{metrics[n]['column']} {percent(f.get('chat'))}" for n, f in row["forms"].items() if n in metrics]
            lines.append(f"{arm} is asked in {row['form']} form; in a chat: {', '.join(chat) or 'not asked'}")
    return lines


def units(status: Mapping[str, Any]) -> Fitted:
    """Units done of all, by generation and stage."""
    there = dict.fromkeys(s["stage"] for s in status["stages"])
    others = [name for name in there if name not in (*UNIT_STAGES, *WHOLE_STAGES)]
    names = [name for name in (*UNIT_STAGES, *others, *WHOLE_STAGES) if name in there]
    by_generation: dict[int, dict[str, str]] = {}
    for s in status["stages"]:
        total = "?" if s["total"] is None else s["total"]
        by_generation.setdefault(s["generation"], {})[s["stage"]] = f"{s['done']}/{total}"
    rows = [[str(number), *(of.get(name, "–") for name in names)] for number, of in by_generation.items()]
    return Fitted(["gen", *names], rows)


def standing(status: Mapping[str, Any]) -> list[str]:
    """Where the run stands, in lines: what is done now and by whom, or how to go on, or why it has ended, or
    what must be mended first."""
    directory, holder, ahead = status["directory"], status["holder"], status["outlook"]
    if status["altered"]:
        return status["altered"]
    if holder:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since"]))
        who = f"process {holder['pid']} on {holder['host']} is at work since {since}"
        return [*_under_way(holder["doing"], ahead), who]
    if status["missing"]:
        return status["missing"]
    if status["ended"]:
        return [f"ended: {status['ended']}"]
    if status["finished"]:
        return ["finished"]
    next_one = f"stage {ahead['stage']} of {ahead['of']}: {ahead['place']} {ahead['name']}" if ahead else "not begun"
    return [next_one, f"no process is at work; resume with `ratchet resume {typed(directory)}`"]


def _under_way(doing: Mapping[str, Any] | None, ahead: Mapping[str, Any] | None) -> list[str]:
    """The stage that is under way with what is done of it, and its number with the time that the run still takes."""
    lines = []
    if doing:
        took = roughly(time.time() - doing["since"])
        lines.append(f"{doing['title']}: {doing['done']:,} of {doing['total']:,}, for {took}")
    if ahead:
        rest = in_words(Left(*ahead["seconds_left"], tuple(ahead["not_measured"])))
        between = "" if doing else f", {ahead['place']} {ahead['name']}"
        lines.append(f"stage {ahead['stage']} of {ahead['of']}{between}, {rest}")
    return lines or ["beginning"]

"""A run in a terminal while it goes on, as `live` has it: what `ratchet watch` shows, from 40 columns on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ratchet.bootstrap.report.goodput import said, spent
from ratchet.bootstrap.report.numbers import duration, pace, percent
from ratchet.bootstrap.report.terminal import shown, units

ROOM = ((1_000_000, 8), (2, 8), (1, 8), (1, 4), (1, 2), (0, 2), (0, 0))
"""The newest generations whose units are shown, and the criteria and parts of the time that are shown at most, from
everything to what takes fewest lines."""
LONGEST = 24
"""Columns of a bar at most."""
STYLES = {"at work": "green", "finished": "green", "ended": "red", "damaged": "red"}

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Bars:
    """Lines of a name, a bar for a share of one, and figures."""

    rows: Sequence[tuple[str, float, str]]

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        figures = max((cell_len(figure) for _, _, figure in self.rows), default=0)
        room = console.width - figures - 6
        name = min(max((cell_len(name) for name, _, _ in self.rows), default=0), max(room - 6, 8))
        width = max(min(room - name, LONGEST), 0)
        for text, share, figure in self.rows:
            line = Text("  ")
            label = Text(text, no_wrap=True)
            label.truncate(name, overflow="ellipsis", pad=True)
            line.append_text(label).append(f"  {bar(share, width)}  ", "cyan").append(f"{figure:>{figures}}")
            yield Text.assemble(line, no_wrap=True, overflow="crop")


def bar(share: float, width: int) -> str:
    """A share between 0 and 1 as a bar of so many columns."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return "━" * full + "·" * (width - full)


@dataclass(frozen=True)
class Screens:
    """Runs below each other, with a line between them, in `height` lines, or in as many as it takes where it is 0.

    What has no room is left out: the units of older generations, then all but two criteria and parts of the time, then
    the units of the newest generation, and those two at last.
    """

    found: Sequence[Found]
    height: int = 0

    def __rich_console__(self, console: Console, _: object) -> Iterator[RenderableType]:
        for generations, rows in ROOM if self.height else ROOM[:1]:
            parts = [part for one in self.found for part in (Rule(style="dim"), screen(one, generations, rows))]
            if len(console.render_lines(Group(*parts[1:]))) <= self.height:
                break
        yield from parts[1:]


def screen(found: Found, generations: int, rows: int) -> RenderableType:
    """What is known of one run now: with the units of so many generations, and so many criteria and parts of the
    time."""
    title = Text.assemble((found["recipe"] or "a run", "bold"), f", {found['directory']}: ", overflow="fold")
    title.append(found["state"], STYLES.get(found["state"], "yellow"))
    standing = [line for line in found["standing"] if line != found["state"]]
    parts: list[RenderableType] = [title, *(shown(line, overflow="fold") for line in (*standing, *_now(found)))]
    if found["doing"] and found["doing"]["total"]:
        done = found["doing"]["done"] / found["doing"]["total"]
        parts.append(Bars([("done", done, f"{percent(done)} %")]))
    newest = sorted({stage["generation"] for stage in found["stages"]})[-generations:] if generations else []
    if newest:
        parts.append(units({"stages": [stage for stage in found["stages"] if stage["generation"] in newest]}))
    return Group(*parts, *_acceptance(found["acceptance"], rows), *_time(found["goodput"], rows))


def _now(found: Found) -> list[str]:
    """How fast the stage under way goes, how busy the sampler is, and what is said of the newest item."""
    doing, sampling = found["doing"] or {}, found["sampling"]
    lines = []
    if doing.get("rate"):
        lines.append(f"{pace(doing['rate'])}, {duration(doing['seconds_left'])} left of this stage")
    if sampling:
        rate = sampling["tokens_per_second"]
        said_now = "so far" if rate is None else f"now, {rate:,.0f} tokens/s"
        lines.append(f"slots {percent(sampling['busy'])} % busy {said_now}")
    return lines + ([", ".join(doing["about"])] if doing.get("about") else [])


def _acceptance(found: Found | None, most: int) -> list[RenderableType]:
    """How many of the newest generation's transcripts pass; at most so many criteria, that which fewest pass first."""
    if not found:
        return []
    rows = [(name, share, f"{percent(share)} %") for name, share in found["criteria"].items()]
    more = len(rows) - most if most else 0
    head = f"generation {found['generation']}, {found['reviewed']:,} reviewed: {percent(found['accepted'])} % accepted"
    rest = [Text(f"  and {more} criteria that more of them pass", "dim")] if more > 0 else []
    return [Text(f"\n{head}" if most else head, "bold"), Bars(rows[:most]), *rest]


def _time(found: Found | None, most: int) -> list[RenderableType]:
    """The goodput, and where the time went, in at most so many parts."""
    if not found or not found["total_elapsed_time"]:
        return []
    whole = found["total_elapsed_time"]
    rows = [(what, seconds / whole, duration(seconds)) for what, seconds, _ in spent(found)]
    return [Text(f"\n{said(found)}" if most else said(found), "bold"), Bars(rows[:most])]

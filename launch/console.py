"""Progress for people: a line or two that are written over on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from etils import epath
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ratchet.bootstrap.progress import Advance, Tallies, Tally
from ratchet.bootstrap.report.numbers import duration, pace
from ratchet.bootstrap.report.outlook import Outlook, in_words, outlook
from ratchet.bootstrap.report.terminal import figures
from ratchet.launch.lines import one_line
from ratchet.train.files import typed

EVERY = 15.0
"""Seconds between plain lines of one stage."""
BAR = 8
"""Columns that a bar needs at least."""
LATE = 2.0
"""Seconds after the time that was foretold from which on it is said that nothing is done."""


@dataclass
class Shown:
    """A stage as it is shown: how far it is, what is said of its newest item, and the run's stages."""

    title: str
    tally: Tally
    run: Outlook
    about: Sequence[str] = field(default_factory=tuple)

    def parts(self) -> tuple[list[str], list[str]]:
        """What is always shown, and what is shown where there is room: both with what matters most first."""
        tally, run = self.tally, self.run
        needed = [self.title, f"{tally.done:,}/{tally.total:,}" if tally.total else f"{tally.done:,}", *self.about[:1]]
        left = None if tally.left is None else max(tally.left - tally.waited, 0.0)
        if tally.done >= tally.total > 0:
            needed.append("ending")
        elif left is not None and tally.waited < tally.left + LATE:
            needed.append(f"{clock(left)} left")
        elif left is not None:  # something else is done first: a program is compiled, most likely
            needed.append(f"nothing new for {clock(tally.waited)}")
        if run.current:
            own = (tally.spent, left) if run.is_current(self.title) else (0.0, None)
            needed += [f"stage {run.number} of {len(run.stages)}", in_words(run.left(*own))]
        rate = [pace(tally.made / max(tally.own, 1e-3))] if tally.made > 0 and not self.about else []
        return needed, [*self.about[1:], *rate]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = laid_out(*self.parts(), options.max_width)
        room = options.max_width - len(lines[-1]) - 2
        if self.tally.total and room >= BAR:
            full = round(min(self.tally.done / self.tally.total, 1.0) * room)
            lines[-1] += f"  {'━' * full}{'·' * (room - full)}"
        yield from (Text(line, no_wrap=True, overflow="crop") for line in lines)


class Terminal:
    """Shows every stage of a run as it goes (see `bootstrap.progress.Progress`). With the run's directory, it also says
    which of the run's stages it is, and how long the rest takes."""

    def __init__(self, console: Console, directory: epath.Path | None = None):
        self.console, self._directory = console, directory
        self._stages, self._tallies = list[Shown](), Tallies()
        self._begun = self._worked = False

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """A line or two while the stage runs, then one that stays. `total` 0 means that it is not known."""
        run = outlook(self._directory) if self._directory else Outlook(())
        self._worked = True
        self._begin(run)
        last = time.monotonic()

        def advance(count: int, about: Sequence[str] = (), *, found: bool = False, left: float | None = None) -> None:
            nonlocal last
            shown.tally.add(count, found, left)
            shown.about = about
            if not self.console.is_interactive and time.monotonic() - last >= EVERY:
                last = time.monotonic()
                self.line("  ".join(part for parts in shown.parts() for part in parts))

        with self._tallies.stage(total) as tally:
            shown = Shown(title, tally, run)
            self._stages.append(shown)
            try:
                with self._live():
                    yield advance
            finally:
                self._stages.pop()
        self.line(f"{title}: {_done(shown.tally)}")

    def line(self, text: str) -> None:
        """Prints a line that stays."""
        self.console.print(one_line(text), highlight=False, markup=False, soft_wrap=True)

    def result(self, error: str | None, page: str, status: Mapping[str, Any]) -> None:
        """The table and where the page is, however the run ended; of an error the command tells. Of a run that has come
        to its end, what may be done next; where there was no stage, nothing was left to do."""
        self.console.print(figures(status))
        self.line(f"report: {page}")
        if error is not None:
            return
        place, more = typed(status["directory"]), len(status["generations"])  # generation 0 is one of them
        if self._worked:
            self.line(f"`ratchet chat {place}` talks to what was trained; `ratchet --help` lists what else there is")
        else:
            self.line(
                f"the run had finished, nothing was left to do; `ratchet resume {place} --generations {more}` goes on "
                "for another generation"
            )

    def __rich__(self) -> Shown | str:
        """The innermost stage: one may train a model of its own."""
        return self._stages[-1] if self._stages else ""

    def _begin(self, run: Outlook) -> None:
        """Says once what lies ahead."""
        if run.current and not self._begun:
            self._begun = True
            self.line(run.announced())

    @contextlib.contextmanager
    def _live(self) -> Iterator[None]:
        """Writes over its own lines as long as the outermost stage runs on a terminal."""
        if not self.console.is_interactive or len(self._stages) > 1:
            yield
            return
        live = Live(self, console=self.console, transient=True, refresh_per_second=4)
        try:
            live.start()  # a signal may come while it starts, with the cursor hidden already
            yield
        finally:
            live.stop()


def laid_out(needed: Sequence[str], more: Sequence[str], width: int) -> list[str]:
    """Parts in lines of a width, two spaces apart: the needed ones in as many lines as they take, the others as far as
    the last line has room."""
    lines: list[str] = []
    for part in needed:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    for part in more:
        if len(lines[-1]) + 2 + len(part) > width:
            break
        lines[-1] += f"  {part}"
    return lines


def clock(seconds: float) -> str:
    """Seconds as "3:20", or "1:05:00" from an hour on."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{s:02}" if hours else f"{minutes}:{s:02}"


def _done(tally: Tally) -> str:
    """What a stage came to: items, seconds and rate."""
    before = f", {tally.found:,} of them before" if tally.found else ""
    rate = f", {pace(tally.made / max(tally.own, 1e-3))}" if tally.made > 0 else ""
    return f"{f'{tally.done:,} ' if tally.done else ''}done{before} in {duration(tally.spent)}{rate}"

"""Progress for people: bars with rate and time left on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 15.0
"""Seconds between plain lines of one stage."""


class Terminal:
    """Shows every stage of a run as it goes (see `bootstrap.progress.Progress`)."""

    def __init__(self, console: Console):
        self.console = console

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar while the stage runs, then one line that stays. `total` 0 means that it is not known.

        `advance(count, about)` may say more about the work in one line, which stands beside the bar or for it.
        """
        began, done = time.monotonic(), 0
        shown = self._bar(title, total) if self.console.is_terminal else self._lines(title, total)
        with shown as show:

            def advance(count: int, about: str = "") -> None:
                nonlocal done
                done += count
                show(done, done / max(time.monotonic() - began, 1e-3), about)

            yield advance
        seconds = time.monotonic() - began
        rate = f", {done / max(seconds, 1e-3):,.1f}/s" if done else ""
        self.line(f"{title}: {f'{done} ' if done else ''}done in {seconds:.1f} s{rate}")

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _bar(self, title: str, total: int):
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[about]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(title, total=total or None, rate="", about="")
            yield lambda done, rate, about: bars.update(task, completed=done, rate=f"{rate:,.1f}/s", about=about)

    @contextlib.contextmanager
    def _lines(self, title: str, total: int):
        last = time.monotonic()

        def show(done: int, rate: float, about: str) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                left = f", {(total - done) / rate:.0f} s left" if total > done else ""
                plain = f"{done}{f'/{total}' if total else ''}, {rate:,.1f}/s{left}"
                self.line(f"{title}: {about or plain}")

        yield show

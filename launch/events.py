"""Progress for programs: what a run does as one JSON object a line, the last one its result."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from ratchet.bootstrap.progress import Advance, Tallies
from ratchet.bootstrap.report.outlook import outlook

EVERY = 1.0
"""Seconds between two lines of one stage."""


class Events:
    """Prints every event of a run (see `bootstrap.progress.Progress`) in a line of its own.

    Each has an `event` and the `time` in seconds since 1970. A "stage" has its title, the items done and in total (0:
    not known), the seconds_left of it, short parts about the newest item, and of the whole run the number of the stage,
    of how many, the least and the most seconds_left_in_all, and the stages that these leave out (not_measured); there
    is one when a stage begins, one a second at most while it runs, and one when it has ended. A "line" has a text. The
    "result" is last: the error that ended the run, null without one, the page, and the status as `ratchet status
    --json` has it.
    """

    def __init__(self, directory: epath.Path):
        self._directory, self._tallies = directory, Tallies()

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        """Prints a "stage" as it begins, while it runs and once it has ended; of one that fails, no end."""
        run, last = outlook(self._directory), time.monotonic()

        def say(ended: bool, about: Sequence[str] = ()) -> None:
            own = (tally.spent, tally.left) if run.is_current(title) else (0.0, None)
            low, high, missing = run.left(*own)
            in_all = {"seconds_left_in_all": [low, high], "not_measured": missing}
            whole = {"stage": run.number, "of": len(run.stages), **in_all} if run.current else {}
            done = {"done": tally.done, "total": total, "seconds_left": tally.left, "ended": ended}
            self.say("stage", title=title, **done, about=list(about), **whole)

        def advance(count: int, about: Sequence[str] = (), *, found: bool = False, left: float | None = None) -> None:
            nonlocal last
            tally.add(count, found, left)
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                say(False, about)

        with self._tallies.stage(total) as tally:
            say(False)
            yield advance
            say(True)

    def line(self, text: str) -> None:
        """Prints a "line"."""
        self.say("line", text=text)

    def result(self, error: str | None, page: str, status: Mapping[str, Any]) -> None:
        """Prints the "result", however the run ended."""
        self.say("result", error=error, page=page, status=status)

    def say(self, event: str, **fields: Any) -> None:
        """Prints one event."""
        print(json.dumps({"event": event, "time": round(time.time(), 3)} | fields), flush=True)

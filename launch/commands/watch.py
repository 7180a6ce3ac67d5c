"""`watch`: runs in a terminal while they go on."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tyro
from rich.live import Live

from ratchet.bootstrap.report.live import Found, Watched
from ratchet.bootstrap.report.screen import Screens
from ratchet.launch.lines import UserError
from ratchet.launch.options import described, located, parse
from ratchet.launch.output import make_console, quiet
from ratchet.train.buckets import StoreError, may_come_back, reason

OVER = ("finished", "ended")
"""What a run is when nothing more will happen to it; so it is when it is damaged and nobody works on it."""
LONGEST = 3600.0
"""Seconds between two looks at most."""
Directories = described(
    tyro.conf.Positional[tuple[str, ...]], "the directories of runs, which may be yet to begin",
    metavar="DIR [DIR ...]", help_behavior_hint="(required)",
)  # fmt: skip
Lines = described(bool, "print one JSON object a line at every look, for programs")


@dataclass(frozen=True)
class Watch:
    """Shows runs while they go on: stage, units, rates, how busy the sampler is, acceptance by criterion, goodput, and
    how long the rest takes. It ends with the last of the runs, or with Ctrl-C, and changes nothing. Where a file is not
    what was committed, and nobody is at work, it ends with exit code 2."""

    directories: Directories
    every: float = 2.0
    """Seconds between two looks."""
    json: Lines = False


def watch(words: list[str]) -> int:
    asked = parse("watch", Watch, words)
    if not asked.directories:
        raise UserError("watch: give DIR, the directory of a run, such as runs/lessons")
    if not 0 < asked.every <= LONGEST:
        raise UserError(f"watch: --every is {asked.every:g}; give seconds above 0, {LONGEST:g} at most")
    quiet()
    runs, console = [Watched(located(place)) for place in asked.directories], make_console()
    with contextlib.ExitStack() as entered:
        if asked.json:
            show = lambda found: print(json.dumps({"time": time.time(), "runs": found}), flush=True)
        elif console.is_terminal:
            live = entered.enter_context(Live(console=console, auto_refresh=False))
            show = lambda found: live.update(Screens(found, console.height - 1), refresh=True)
        else:
            show = lambda found: console.print(Screens(found))
        found = _follow(runs, asked.every, show)
    if damaged := [one for one in found if one["state"] == "damaged"]:
        raise UserError(f"watch: {damaged[0]['standing'][0]}")
    return 0


def _follow(runs: Sequence[Watched], every: float, show: Callable[[list[Found]], None]) -> list[Found]:
    """Looks at the runs and shows what was found, until all of them are over; returns the last of it. What a bucket
    does not do once it may do the next time."""
    found: list[Found] = []
    while True:
        try:
            found = [run.look() for run in runs]
        except Exception as error:
            again = error.again if isinstance(error, StoreError) else reason(error) and may_come_back(error)
            if not (found and again):
                raise
        show(found)
        if all(one["state"] in OVER or (one["state"] == "damaged" and not one["holder"]) for one in found):
            return found
        time.sleep(every)

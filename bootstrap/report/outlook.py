"""How long the rest of a run takes: the stages that its plan names, against the time of those that are done.

A stage takes as long for its work as the same stage did before, in other generations of this run on whatever machines
it had, in however many processes; the first time, which also compiles its programs, counts only until there is another.
One that was never done takes what the run forecast when it began, between two bounds; without a forecast it counts as
not measured.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from etils import epath

from ratchet.bootstrap.report.goodput import goodput
from ratchet.train.files import is_number, numbers_in, object_in


@dataclass(frozen=True)
class Stage:
    """A stage of the plan: generation or arm, name, amount of work, the seconds that it took, None while they are not
    known, and the least and the most seconds that were forecast, None without a forecast."""

    place: str
    name: str
    work: float
    seconds: float | None = None
    expected: tuple[float, float] | None = None
    over: bool = False
    """Whether its whole generation or arm is done."""
    begun: float = 0.0
    """The seconds that what there is of it took, while it is not done."""

    @property
    def done(self) -> bool:
        return self.over or self.seconds is not None


class Left(NamedTuple):
    """The least and the most seconds to the end of a run, and the names of the stages that are not in them, since
    nothing is known of them."""

    low: float
    high: float
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outlook:
    """The stages of a run in order."""

    stages: tuple[Stage, ...]

    @property
    def number(self) -> int:
        """Of the first stage that is not done, from 1; one more than there are stages when all are done."""
        return next((n for n, s in enumerate(self.stages, 1) if not s.done), len(self.stages) + 1)

    @property
    def current(self) -> Stage | None:
        """The first stage that is not done."""
        return self.stages[self.number - 1] if self.number <= len(self.stages) else None

    def left(self, spent: float = 0.0, ahead: float | None = None) -> Left:
        """How long it is to the end of the run. `spent` are the seconds of the current stage so far, beside those from
        which the outlook knows that it has `begun`; `ahead` are those that it still takes, where it knows."""
        took = self._took()
        spent += self.current.begun if self.current else 0.0
        if self.current and ahead is not None:
            seconds, work = took.get(self.current.name, (0.0, 0.0))
            took[self.current.name] = seconds + spent + ahead, work + self.current.work
        low, high, missing = 0.0, 0.0, []
        for stage in self.stages[self.number - 1 :]:
            seconds, work = took.get(stage.name, (0.0, 0.0))
            if stage is self.current and ahead is not None:
                least = most = ahead
            elif work or stage.expected:
                least, most = (stage.work * seconds / work,) * 2 if work else stage.expected
                gone = spent if stage is self.current else 0.0
                least, most = max(least - gone, 0.0), max(most - gone, 0.0)
            else:
                missing.append(stage.name)
                continue
            low, high = low + least, high + most
        return Left(low, high, tuple(dict.fromkeys(missing)))

    def _took(self) -> dict[str, tuple[float, float]]:
        """By name, the seconds of stages that are done, and their work."""
        done: dict[str, list[Stage]] = {}
        for stage in self.stages:
            if stage.seconds is not None:
                done.setdefault(stage.name, []).append(stage)
        later = {name: of[1:] or of for name, of in done.items()}
        return {name: (sum(s.seconds for s in of), sum(s.work for s in of)) for name, of in later.items()}

    def announced(self) -> str:
        """What lies ahead, in a line, before the first stage that is not done."""
        if self.number > 1:
            return f"stage {self.number} of {len(self.stages)}, {in_words(self.left())}"
        trained, written = (sum(s.work for s in self.stages if s.name == name) for name in ("train", "simulate"))
        there = f"{len(self.stages)} stages, {trained:,} examples to train, {written:,} answers to write"
        if self.current.expected:
            return f"{in_words(self.left())}: {there}"
        return f"{there}; how long that takes is said as soon as a part of it is measured"

    def is_current(self, title: str) -> bool:
        """Whether work with this title is what the current stage is about, and no part of another."""
        return self.current is not None and self.current.name in title.split()


def outlook(
    directory: epath.Path, read: Callable[[epath.Path], Mapping[str, Any]] = object_in, now: float | None = None
) -> Outlook:
    """The stages that the run's plan names, as `read` has it; none before there is a plan. Where a process is at work,
    the time of the stage under way counts until `now`, in seconds since 1970; else until the stage last kept a part."""
    planned, forecast = read(directory / "plan.json").get("stages", ()), read(directory / "forecast.json")
    places = {stage["place"]: directory / stage["place"] for stage in planned}
    took = {name: numbers_in(path / "stages.json") for name, path in places.items()}
    proof = lambda name: "DONE.json" if name.startswith("gen-") and int(name[4:]) else "evaluation.json"
    over = {name: (path / proof(name)).exists() for name, path in places.items()}
    parts = (goodput(directory, now) or {}).get("stages", {}) if planned else {}
    made = []
    for stage in planned:
        place, name = stage["place"], stage["stage"]
        expected = _bounds(forecast.get(place), name)
        # An arm is made anew for each last generation, and what the one before took is not of it.
        begun = parts.get(place, {}).get(name, 0.0) if place.startswith("gen-") else 0.0
        # stages.json has the whole of a stage only if one process did it.
        seconds = max(took[place][name], begun) if name in took[place] else None
        made.append(Stage(place, name, stage["work"], seconds, expected, over[place], begun))
    return Outlook(tuple(made))


def _bounds(of_place: Any, name: str) -> tuple[float, float] | None:
    """What a forecast says of a stage; None where that is not two numbers: nothing depends on that file, and nobody
    says when it is damaged."""
    found = of_place.get(name) if isinstance(of_place, Mapping) else None
    usable = isinstance(found, list) and len(found) == 2 and all(map(is_number, found))
    return tuple(found) if usable else None


def roughly(seconds: float) -> str:
    """A time as people say it when they do not know it exactly: "40 s", "14 min", "2.5 h", "3 days"."""
    for limit, unit, length in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            number = f"{seconds / length:.1f}" if unit == "h" and seconds < 36_000 else f"{seconds / length:.0f}"
            return f"{number} {unit}"
    return f"{seconds / 86_400:.0f} days"


def in_words(left: Left) -> str:
    """How long the rest takes: "about 14 min left in all", "10 min to 1.5 h left in all" where it is only forecast, or
    "at least" so much when nothing is known of some stages."""
    low, high = roughly(left.low), roughly(left.high)
    if left.missing:
        return f"at least {low} left in all" if left.low else "time in all not known yet"
    if low == high or left.high < 1.2 * left.low:
        return f"about {high} left in all"
    number, unit = low.split()
    return f"{number if unit == high.split()[1] else low} to {high} left in all"

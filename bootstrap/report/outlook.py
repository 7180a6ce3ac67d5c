"""How long the rest of a run takes: the stages that its plan names, against the time of those that are done.

Nothing is guessed. A stage takes as long for its work as the same stage did before, in other generations of this run on
whatever machines it had; a stage that was never done counts as not measured.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from ratchet.train.files import numbers_in, object_in


@dataclass(frozen=True)
class Stage:
    """A stage of the plan: generation or arm, name, amount of work, and the seconds that it took; None: not known."""

    place: str
    name: str
    work: float
    seconds: float | None = None
    over: bool = False
    """Whether its whole generation or arm is done."""

    @property
    def done(self) -> bool:
        return self.over or self.seconds is not None


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

    def left(self, spent: float = 0.0, ahead: float | None = None) -> tuple[float, tuple[str, ...]]:
        """Seconds to the end of the run, as far as measured, and the names of the stages that are not.

        `spent` are the seconds of the current stage so far; `ahead` are those that it still takes, where it knows.
        """
        took: dict[str, tuple[float, float]] = {}
        for stage in self.stages:
            known = spent + ahead if stage is self.current and ahead is not None else stage.seconds
            if known is not None:
                seconds, work = took.get(stage.name, (0.0, 0.0))
                took[stage.name] = seconds + known, work + stage.work
        left, missing = 0.0, []
        for stage in self.stages[self.number - 1 :]:
            seconds, work = took.get(stage.name, (0.0, 0.0))
            if not work:
                missing.append(stage.name)
            elif stage is not self.current:
                left += stage.work * seconds / work
            else:
                left += max(stage.work * seconds / work - spent, 0.0) if ahead is None else ahead
        return left, tuple(dict.fromkeys(missing))

    def announced(self) -> str:
        """What lies ahead, in a line, before the first stage that is not done."""
        if self.number > 1:
            return f"stage {self.number} of {len(self.stages)}, {in_words(*self.left())}"
        trained, written = (sum(s.work for s in self.stages if s.name == name) for name in ("train", "simulate"))
        return (
            f"{len(self.stages)} stages: {trained:,} examples to train on, {written:,} answers to write; "
            "how long that takes is said as soon as a part of it is measured"
        )

    def is_current(self, title: str) -> bool:
        """Whether work with this title is what the current stage is about, and no part of another."""
        return self.current is not None and self.current.name in title.split()


def outlook(directory: epath.Path, read: Callable[[epath.Path], Mapping[str, Any]] = object_in) -> Outlook:
    """The stages that the run's plan names, as `read` has it; none before there is a plan."""
    stages = [(s["place"], s["stage"], s["work"]) for s in read(directory / "plan.json").get("stages", ())]
    places = {place: directory / place for place, _, _ in stages}
    took = {name: numbers_in(path / "stages.json") for name, path in places.items()}
    proof = lambda name: "DONE.json" if name.startswith("gen-") and int(name[4:]) else "evaluation.json"
    over = {name: (path / proof(name)).exists() for name, path in places.items()}
    return Outlook(tuple(Stage(place, name, work, took[place].get(name), over[place]) for place, name, work in stages))


def roughly(seconds: float) -> str:
    """A time as people say it when they do not know it exactly: "40 s", "14 min", "2.5 h", "3 days"."""
    for limit, unit, length in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            number = f"{seconds / length:.1f}" if unit == "h" and seconds < 36_000 else f"{seconds / length:.0f}"
            return f"{number} {unit}"
    return f"{seconds / 86_400:.0f} days"


def in_words(left: float, missing: Sequence[str]) -> str:
    """How long the rest takes: "about 14 min in all", or at least so much when stages were never measured."""
    if missing and not left:
        return "time in all not known yet"
    return f"{'at least' if missing else 'about'} {roughly(left)} left in all"

"""How long the rest of a run takes: the stages that its plan names, against the time of those that are done.

Nothing is guessed. A stage takes as long for its work as the same stage did before, in other generations of this run on
whatever machines it had; a stage that was never done counts as not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from ratchet.bootstrap.report.files import read_json


@dataclass(frozen=True)
class Stage:
    """A stage of the plan: generation or arm, name, amount of work, and the seconds that it took; None: not done."""

    place: str
    name: str
    work: float
    seconds: float | None = None


@dataclass(frozen=True)
class Outlook:
    """The stages of a run in order."""

    stages: tuple[Stage, ...]

    @property
    def number(self) -> int:
        """Of the first stage that is not done, from 1; one more than there are stages when all are done."""
        return next((n for n, s in enumerate(self.stages, 1) if s.seconds is None), len(self.stages) + 1)

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


def outlook(directory: epath.Path) -> Outlook:
    """The stages that the run's plan names; none before there is a plan."""
    took: dict[str, Mapping[str, Any]] = {}
    made = []
    for stage in read_json(directory / "plan.json").get("stages", ()):
        place, name = stage["place"], stage["stage"]
        if place not in took:
            took[place] = read_json(directory / place / "stages.json")
        made.append(Stage(place, name, stage["work"], took[place].get(name)))
    return Outlook(tuple(made))


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

"""How long a run takes, before anything of it is done: how fast this machine samples, times how much there is to do.

The bounds are wide where it is not known beforehand how much that is: how long answers get, how many pass, how many
alternatives they have. What servers take part in has no forecast, since their pace is not this machine's. What was
measured takes the place of what was forecast, stage after stage (`report.outlook`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import NamedTuple

from flax import nnx

from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.probes import JUNK, JUNK_OF, siblings_of
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import draft
from ratchet.bootstrap.worlds.world import Task
from ratchet.models.sampler import Pace
from ratchet.train.files import write_json

FORECAST = "forecast.json"
"""The file of a run that holds, by place and stage, the least and the most seconds that are expected."""
SHOWN = 8
"""Tasks whose prompts are measured."""
TIMINGS, ENOUGH = 3, 10.0
"""Timings of the machine, of which another is made while they took fewer seconds than this."""
BACKWARD = (1.6, 5.2)
"""A token that is trained on, relative to one that is read."""
COMPILED = {
    "train": (1.0, 4.0), "propose": (0.3, 4.0), "simulate": (0.3, 2.0), "calibrate": (0.0, 2.0), "review": (0.0, 2.0),
    "targets": (0.3, 6.0), "wrongthink": (0.3, 4.0), "corrections": (0.0, 3.0), "evaluate": (1.0, 5.0),
}  # fmt: skip
"""Time that the programs of a stage take to compile, relative to the sampler's."""
AGAIN = (0.1, 1.0)
"""The same of a stage that was there before: shapes may be new, those of training above all."""
BRANCHES, RECOVERIES = (0.1, 5.0), 500
"""Alternatives that are tried of an answer that may be kept, and at most as many answers after wrong starts as an
evaluation asks for."""


class Bounds(NamedTuple):
    """The least and the most of something."""

    low: float
    high: float

    def __add__(self, other: "Bounds") -> "Bounds":
        return Bounds(self.low + other.low, self.high + other.high)

    def times(self, low: float, high: float) -> "Bounds":
        return Bounds(self.low * low, self.high * high)


@dataclass(frozen=True)
class Scale:
    """What everything costs: the machine's pace, slow and fast, and tokens of a prompt, with sources in view and
    without, and of an answer."""

    fast: Pace
    slow: Pace
    slots: int
    prompt: float
    question: float
    answer: Bounds

    def reading(self, tokens: float) -> Bounds:
        return Bounds(self.fast.token * tokens, self.slow.token * tokens)

    def sampling(self, answers: float, prompt: float) -> Bounds:
        """Answers to prompts of so many tokens."""
        steps = Bounds(self.fast.step * answers / self.slots, self.slow.step * -(-answers // self.slots))
        return steps.times(*self.answer) + self.reading(answers * prompt)

    def training(self, examples: float) -> Bounds:
        """Examples of simulators and of students, half of each."""
        length = (self.prompt + self.question + sum(self.answer)) / 2
        return self.reading(examples * length).times(*BACKWARD)

    def compiling(self, stage: str) -> Bounds:
        return Bounds(self.slow.compiling, self.slow.compiling).times(*COMPILED[stage])


def write_forecast(run: Run, stages: Sequence[Mapping]) -> None:
    """Writes down how long every stage is expected to take."""
    run.progress.line("timing this machine, to say how long the run takes")
    params = base_weights(run.config, run.mesh) if run.config.base else run.fresh_weights()
    found = forecast(run, params, stages)
    aside = dict.fromkeys(one["stage"] for one in stages if by_servers(run, one["place"], one["stage"]))
    if found and aside:
        run.progress.line(f"not foretold, since servers take part whose pace is not known here: {', '.join(aside)}")
    run.decided("how long the run takes", lambda: write_json(run.directory / FORECAST, found))


def forecast(run: Run, params: nnx.State, planned: Sequence[Mapping]) -> dict[str, dict[str, Bounds]]:
    """By place and name of each planned stage that no servers take part in, the seconds that it takes; {} where there
    is nothing to try.

    `params` are any weights of the run's shape. Where tasks are still to be proposed, documents stand in for them.
    """
    unasked = run.material(1).documents[:SHOWN] if run.kinds else ()
    tasks = run.tasks(1)[:SHOWN] or [Task(d.id, (d.id,), ({"role": "user", "content": d.text[:100]},)) for d in unasked]
    if not tasks:
        return {}
    scale, found = _scale(run, params, tasks), {}
    for stage in planned:
        place, name = stage["place"], stage["stage"]
        if name not in COMPILED or by_servers(run, place, name):
            continue
        compiled = scale.compiling(name)
        if any(name in of for of in found.values()):
            compiled = compiled.times(*AGAIN)
        found.setdefault(place, {})[name] = _work(run, scale, name, stage["work"]) + compiled
    return found


def by_servers(run: Run, place: str, stage: str) -> bool:
    """Whether servers take part in a stage: a teacher or a judge by address, or those that have the run's weights."""
    c = run.config
    opened = {"targets", "corrections"} if c.targets.kind == "reviewed" else set()
    taught = {run.generation(number).name for number in range(1, c.teacher.generations + 1)}
    written = {"simulate", "wrongthink", *opened, *({"calibrate"} if run.world.known else ())}
    return bool(
        (c.teacher.url and stage == "simulate" and place in taught)
        or (c.judge.url and stage in {"calibrate", "review", "wrongthink", "evaluate", *opened})
        or (c.rollouts.url and stage in written)
    )


def _scale(run: Run, params: nnx.State, tasks: Sequence[Task]) -> Scale:
    """Times the sampler with prompts as they will be. Several processes time it together, so that the clock of the
    first one tells all of them whether they do so again."""
    writer, index, end = run.writer(params), Index(run.passages(1)), run.tokenizer.end
    drafts = [draft(writer, index, task, 0, "forecast") for task in tasks]
    longest = max((d.prompt for d in drafts), key=len)
    paces, began = [], time.monotonic()
    soon = lambda: time.monotonic() - began < ENOUGH
    while not paces or (len(paces) < TIMINGS and run.decided("whether to time this machine again", soon)):
        paces.append(run.sampler.pace(params, longest, (end, end)))
    times = [asdict(pace) for pace in paces]
    fast, slow = (Pace(**{name: of([t[name] for t in times]) for name in times[0]}) for of in (min, fmean))
    answer = run.config.simulate.new_tokens
    return Scale(
        fast,
        Pace(paces[0].compiling, slow.token, slow.step),
        run.config.simulate.slots,
        fmean(len(d.prompt) for d in drafts),
        fmean(len(run.tokenizer.render(d.task.messages)) for d in drafts),
        Bounds(answer / 4, answer),
    )


def _work(run: Run, scale: Scale, name: str, work: float) -> Bounds:
    """What a stage with so much work does, without compiling; `work` is as `loop.planned` counts it."""
    c = run.config
    asked = sum(criterion.kind == "model" for criterion in run.rubric)
    view, sampled = scale.prompt, scale.sampling
    judged = lambda answers: scale.reading(answers * asked * (view + scale.answer.high)).times(0.1, 1.0)
    match name:
        case "propose":
            proposed = work * sum(kind.times for kind in run.kinds.kinds)
            return (sampled(2 * proposed, view) + scale.reading(2 * proposed * view)).times(0.3, 1.5)
        case "simulate":
            return sampled(work, view).times(1.0, 1.5)
        case "calibrate":
            answers = work * siblings_of(run) if run.world.known else 0
            return sampled(answers, view) + judged(answers + JUNK * max(answers / JUNK_OF, work))
        case "review":
            attacks = c.review.attacks if run.world.has_oracle else 0
            return judged(work) + judged(attacks).times(0.0, 5.0)
        case "targets" | "corrections":
            answers = min(c.targets.per_task, c.simulate.samples)
            kept = work * (answers if name == "targets" else c.wrongthink.per_task / 4)
            branches = kept if c.targets.kind == "reviewed" else 0
            return (sampled(branches, view) + judged(branches)).times(*BRANCHES)
        case "wrongthink":
            swept = min(work, 80) * (1 + len(c.wrongthink.lambdas))
            thoughts = work * c.wrongthink.samples
            return (sampled(swept + 3 * thoughts, view) + judged(swept + 4 * thoughts)).times(0.1, 1.0)
        case "evaluate":
            items = len(run.world.items(run.read(1))) + len(run.world.fresh.tasks) * c.evaluate.samples
            found = sampled(items + work, view).times(0.3, 1.0)
            if not c.wrongthink.first_generation:
                return found
            aside = scale.training(c.wrongthink.steps * c.train.batch)
            return found + (sampled(4 * work + RECOVERIES, scale.question) + aside).times(0.0, 1.0)
    return scale.training(work)

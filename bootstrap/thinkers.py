"""Models that think wrongly: the vectors they are made with, and how far these are inverted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from flax import nnx

from ratchet.bootstrap import examples, wrongthink
from ratchet.bootstrap.arms import arm_of, train_arm
from ratchet.bootstrap.intervals import evenly
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.bootstrap.wrongthink import against, difference, random_like
from ratchet.train.records import Example
from ratchet.train.trainer import Training

PROBED = 80
"""Tasks on which each λ is tried."""
SIDE_RATE = 0.3
"""Learning rate of the side runs, relative to training's."""
SIDES = ("lesson", "anti")
"""The arms of a contrast's side runs, on right answers and on spoiled ones."""
PART = 0.2
"""The part of all that was learned that a contrast holds beside what its side runs learn. More makes more thoughts
wrong, and even more of a random vector's, which is as long."""
CONTROL = 64
"""Passages of fresh documents that are control text where the world has none of its own."""


@dataclass(frozen=True)
class Knower:
    """A model that knows what it read: its generation and weights, and those of the model before the lessons.

    `right` are accepted answers about what it read, one of each task, and `passages` those of all documents read.
    """

    run: Run
    number: int
    params: nnx.State
    base: nnx.State
    tasks: Sequence[Task]
    right: Sequence[Transcript]
    passages: Sequence[Document]

    @property
    def heard(self) -> tuple[str, ...]:
        """The texts of the right answers."""
        return tuple(t.text for t in self.right)

    def seed(self, *parts) -> int:
        return self.run.seed(self.number, *parts)

    def vector(self, source: str) -> nnx.State | None:
        """What is inverted, or None for a contrast of answers that cannot be spoiled. "inverted" is all that was
        learned since the base; "contrast" is PART of that and what a short side run learns from right answers, less
        what another learns from the same answers with one step spoiled (arXiv 2511.05408); "random" is as long as the
        first, in a random direction."""
        if source == "contrast":
            return self.contrast()
        lesson = difference(self.params, self.base)
        return self.random_like(lesson) if source == "random" else lesson

    def random_like(self, vector: nnx.State) -> nnx.State:
        """This generation's random vector, as long as the one given."""
        return random_like(vector, self.seed("random vector"))

    def contrast(self) -> nnx.State | None:
        """PART of what was learned, and the difference between two side runs from the model itself; None where no
        answer can be spoiled. Nothing is trained on what either run writes but what interrupts it."""
        arms = self.asides()
        if not arms:
            return None
        aside = difference(*(train_arm(self.run, self.params, arm) for arm in arms))
        return against(aside, difference(self.params, self.base), -PART)

    def asides(self) -> list[Training]:
        """The side runs of a contrast, on right answers and on spoiled ones; none where no answer can be spoiled."""
        run, tasks, heard = self.run, {t.id: t for t in self.tasks}, self.heard[: wrongthink.HEARD]
        known = [(tasks[t.task_id], t.text) for t in self.right if t.task_id in tasks]
        made = [_answered(run, *one, "lesson") for one in known]
        spoiled = [e for one in known for e in _spoiled(run, *one, heard)]
        right, wrong = (run.fitting(es, f"gen {self.number} contrast") for es in (made, spoiled))
        count, steps = run.config.train.batch, run.config.wrongthink.steps
        given = {"steps": steps, "rate_scale": SIDE_RATE, "few_shapes": True}
        arm = lambda name, answers: arm_of(run, self.number, name, [(answers, count)], **given)
        return [*map(arm, SIDES, (right, wrong))] if right and wrong else []

    def sweep(self, reviewer: Reviewer, vector: nnx.State, source: str) -> list[dict]:
        """By λ of a source's vector, 0 first: the shares of unaided reasoning that are well formed and wrong, as
        `reviewer` judges, and perplexity on control text relative to λ = 0."""
        run, control, scales = self.run, control_text(self.run), self.run.config.wrongthink.lambdas

        def measure(candidate: nnx.State, said: Sequence[wrongthink.Said]) -> dict:
            cases = wrongthink.as_cases(reviewer, said, self.passages, self.heard)
            wrong = [step >= 0 for step, _ in reviewer.first_faults(cases)]
            advance(1)
            return {
                "formed": float(np.mean(reviewer.formed(cases))),
                "wrong": float(np.mean(wrong)),
                "perplexity": math.exp(run.loss(candidate, control)) if control else 1.0,
            }

        probe = evenly(self.tasks, PROBED)
        writer = run.writer(self.params)
        with run.progress.stage(f"gen {self.number} wrong-thinker ({source})", 1 + len(scales)) as advance:
            return wrongthink.sweep(writer, run.world, probe, vector, scales, measure, self.seed("sweep"))

    def choose(self, reviewer: Reviewer, source: str, vector: nnx.State | None) -> tuple[nnx.State | None, dict]:
        """The weights of the wrong-thinker by a source's vector, and how it was chosen; None when no λ is wrong enough
        within the budget."""
        c = self.run.config.wrongthink
        if vector is None:
            skipped = "no accepted answer can be spoiled"
            return None, {"source": source, "lambda": None, "sweep": [], "skipped": skipped}
        rows = self.sweep(reviewer, vector, source)
        best = wrongthink.most_wrong(rows, c)
        if best is None or best["wrong"] < c.minimum_wrong:
            skipped = "no λ was wrong enough while well formed and within the perplexity budget"
            return None, {"source": source, "lambda": None, "sweep": rows, "skipped": skipped}
        chosen = {"source": source, "lambda": best["lambda"], "sweep": rows, "skipped": None}
        return against(self.params, vector, best["lambda"]), chosen


def control_text(run: Run) -> list[Example]:
    """Text that nothing was trained on, for perplexity: the world's own, or else passages of its fresh documents."""
    passages = () if run.world.control else run.cut(run.world.fresh.documents[:CONTROL])[:CONTROL]
    lines = run.world.control or tuple(("", p.text) for p in passages)
    made = [examples.prose_example(run.tokenizer, *line) for line in lines]
    return [e for e in made if len(e.tokens) <= run.config.train.columns]


def _spoiled(run: Run, task: Task, answer: str, heard: Sequence[str]) -> list[Example]:
    """Examples of a right answer with one step spoiled and the rest as it was."""
    steps, made = run.world.steps(answer), []
    for way in run.world.spoil(task, answer, heard, Random(f"anti {task.id}")):
        made.append(_answered(run, task, way.thought(answer, steps) + answer[steps[way.step].end :], "anti-lesson"))
    return made


def _answered(run: Run, task: Task, answer: str, kind: str) -> Example:
    """An example of an answer as it is."""
    trained = [*run.tokenizer.encode(answer), run.tokenizer.end]
    lineage = {"kind": kind, "task": task.id}
    return examples.example(run.tokenizer.render(task.messages), trained, examples.one_hot(trained), "student", lineage)

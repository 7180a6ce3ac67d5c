"""The lessons world: stories in which somebody takes an unwise action and pays for it.

What an action leads to is arbitrary, so it can only be known from the stories. The seed is about made-up situations
that no generation reads, and easier: fewer options.

language         words, genres, contexts and wordings
situations       what each action leads to; stories and questions
reasoning        steps, checks and spoiling of answers
demonstrations   ideal answers, prose and wrong thoughts
oracle           what is true
items            what is asked of a model that sees no sources
rubric.yaml      the criteria of the review
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from random import Random

from ratchet.bootstrap.worlds.bounds import bounded
from ratchet.bootstrap.worlds.lessons_world.demonstrations import ideal_answer, prose
from ratchet.bootstrap.worlds.lessons_world.items import METRICS, ask_about
from ratchet.bootstrap.worlds.lessons_world.language import EXCHANGEABLE, SEEN
from ratchet.bootstrap.worlds.lessons_world.oracle import grader
from ratchet.bootstrap.worlds.lessons_world.reasoning import CHECKS, spoil, steps
from ratchet.bootstrap.worlds.lessons_world.situations import EXISTING, Situation, ask, draw, questions, stories
from ratchet.bootstrap.worlds.world import Document, Material, Task, World


@dataclass(frozen=True)
class LessonsConfig:
    """The embedded lessons world."""

    slice: int = bounded(54, "at least 1")
    """Situations that each generation reads for the first time."""
    fresh: int = bounded(108, "at least 1")
    """Situations that no generation reads, for the simulator's pass rate."""
    questions: int = bounded(3, "at least 1")
    """Tasks per situation, each in another context and order of options."""
    third_option: float = bounded(0.4, "from 0 to 1")
    """Share of situations with three possible actions instead of two; half of it in the seed."""
    demonstrations: int = bounded(200, "at least 1")
    """Situations of the worked tasks that are shown."""
    probes: int = bounded(60, "at least 1")
    """Situations of the worked tasks that the reviewer is calibrated on."""
    prose: int = bounded(6000, "at least 0")
    """Lines of general prose for a model from scratch."""


def create(config: LessonsConfig, seed: int, generations: int) -> World:
    """The lessons world of a seed, with a slice for each generation.

    Raises ValueError when more situations or questions are asked for than exist.
    """
    read, worked = config.slice * generations, config.demonstrations + config.probes
    _refuse_too_many(config, read + config.fresh + worked)
    shares = [config.third_option] * (read + config.fresh) + [config.third_option / 2] * worked
    situations = draw(seed, shares)
    corpus, shown = situations[: read + config.fresh], situations[read + config.fresh :]
    asked = [questions(s, seed, number, config.questions) for number, s in enumerate(corpus)]
    slices = tuple(
        Material(_told(corpus[at : at + config.slice], seed), sum(asked[at : at + config.slice], ()))
        for at in range(0, read, config.slice)
    )
    worked_tasks = [_worked(s, seed, SEEN[_number(at, config) % len(SEEN)]) for at, s in enumerate(shown)]
    truth = {task.id: s for s, tasks in zip(corpus, asked, strict=True) for task in tasks}
    return World(
        "lessons",
        slices,
        (files(__package__) / "rubric.yaml").read_text(),
        fresh=Material(_told(corpus[read:], seed), tuple(tasks[0] for tasks in asked[read:])),
        seed=Material(_told(shown, seed), tuple(worked_tasks)),
        prose=prose(Random(f"prose {seed}"), config.prose),
        control=prose(Random(f"control {seed}"), 64),
        checks=CHECKS,
        steps=steps,
        spoil=spoil,
        known=grader({task.id: s for task, s in zip(worked_tasks, shown, strict=True)}),
        oracle=grader(truth),
        items=partial(ask_about, truth, seed),
        metrics=METRICS,
        names=EXCHANGEABLE,
    )


def _told(situations: Sequence[Situation], seed: int) -> tuple[Document, ...]:
    return tuple(story for s in situations for story in stories(s, seed))


def _number(at: int, config: LessonsConfig) -> int:
    """The worked tasks that are shown, and the probes, are counted apart."""
    return at if at < config.demonstrations else at - config.demonstrations


def _worked(situation: Situation, seed: int, context) -> Task:
    task = ask(situation, seed, context)
    return replace(task, answer=ideal_answer(situation, task.seek, Random(f"demo {task.id}")))


def _refuse_too_many(config: LessonsConfig, asked: int) -> None:
    if asked > EXISTING:
        raise ValueError(
            f"lessons: {asked} situations asked for, {EXISTING} exist; lower --generations, --lessons.slice, "
            "--lessons.fresh, --lessons.demonstrations or --lessons.probes"
        )
    if config.questions > len(SEEN):
        raise ValueError(
            f"lessons: {config.questions} questions a situation asked for, {len(SEEN)} exist; lower --lessons.questions"
        )

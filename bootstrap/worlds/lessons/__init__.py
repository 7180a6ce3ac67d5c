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
from itertools import chain
from random import Random

from ratchet.bootstrap.worlds.bounds import bounded
from ratchet.bootstrap.worlds.lessons.demonstrations import ideal_answer, prose
from ratchet.bootstrap.worlds.lessons.items import METRICS, ask_about
from ratchet.bootstrap.worlds.lessons.language import EXCHANGEABLE, NO, SEEN
from ratchet.bootstrap.worlds.lessons.oracle import grader
from ratchet.bootstrap.worlds.lessons.reasoning import CHECKS, spoil, steps
from ratchet.bootstrap.worlds.lessons.situations import EXISTING, Situation, ask, draw, questions, stories
from ratchet.bootstrap.worlds.world import Material, Task, World


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
    held_out: int = bounded(60, "at least 1")
    """Situations of the worked tasks that are held out for the review: what it practises on, and its probes."""
    prose: int = bounded(6000, "at least 0")
    """Lines of general prose for a model from scratch."""


def create(config: LessonsConfig, seed: int, generations: int) -> World:
    """The lessons world of a seed, with a slice for each generation.

    A world for more generations has further slices and is otherwise the same. Raises ValueError when more situations
    or questions are asked for than exist.
    """
    read, worked = config.slice * generations, config.demonstrations + config.held_out
    _refuse_too_many(config, worked + config.fresh + read)
    share = config.third_option
    shown, unread, told = draw(seed, [(worked, share / 2), (config.fresh, share), (read, share)])  # slices come last
    worked_tasks = _worked(shown[: config.demonstrations], seed) + _worked(shown[config.demonstrations :], seed)
    unread_tasks = [questions(s, seed, number, 1) for number, s in enumerate(unread)]
    read_tasks = [questions(s, seed, number, config.questions) for number, s in enumerate(told)]
    corpus = zip((*told, *unread), (*read_tasks, *unread_tasks), strict=True)
    truth = {task.id: s for s, tasks in corpus for task in tasks}
    parts = [slice(at, at + config.slice) for at in range(0, read, config.slice)]
    return World(
        "lessons",
        tuple(_material(told[part], read_tasks[part], seed) for part in parts),
        (files(__package__) / "rubric.yaml").read_text(),
        fresh=_material(unread, unread_tasks, seed),
        seed=_material(shown, [worked_tasks], seed),
        prose=prose(Random(f"prose {seed}"), config.prose),
        control=prose(Random(f"control {seed}"), 64),
        checks=CHECKS,
        steps=steps,
        spoil=spoil,
        interruption=NO,
        known=grader({task.id: s for task, s in zip(worked_tasks, shown, strict=True)}),
        oracle=grader(truth),
        items=partial(ask_about, truth, seed),
        metrics=METRICS,
        names=EXCHANGEABLE,
    )


def _material(situations: Sequence[Situation], tasks: Sequence[Sequence[Task]], seed: int) -> Material:
    return Material(tuple(story for s in situations for story in stories(s, seed)), tuple(chain.from_iterable(tasks)))


def _worked(situations: Sequence[Situation], seed: int) -> list[Task]:
    """A task about each situation with its ideal answer."""
    asked = [ask(s, seed, SEEN[number % len(SEEN)]) for number, s in enumerate(situations)]
    return [
        replace(task, answer=ideal_answer(s, task.seek, Random(f"demo {task.id}")))
        for s, task in zip(situations, asked, strict=True)
    ]


def _refuse_too_many(config: LessonsConfig, asked: int) -> None:
    if asked > EXISTING:
        raise ValueError(
            f"lessons: {asked} situations asked for, {EXISTING} exist; lower --generations, --lessons.slice, "
            "--lessons.fresh, --lessons.demonstrations or --lessons.held-out"
        )
    if config.questions > len(SEEN):
        raise ValueError(
            f"lessons: {config.questions} questions a situation asked for, {len(SEEN)} exist; lower --lessons.questions"
        )

"""A few tasks through simulate and review before anything trains: what a run would ask, answer and accept."""

from collections.abc import Iterator
from dataclasses import dataclass

from flax import nnx

from ratchet.bootstrap.proposals import Proposal, Proposer, tasks_of
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Task


@dataclass(frozen=True)
class Previewed:
    """A task with the answers that the simulator gives to it, and their reviews."""

    task: Task
    transcripts: tuple[Transcript, ...]
    reviews: tuple[Review, ...]


@dataclass(frozen=True)
class Preview:
    """`refused` are proposals that are no tasks; there are none where the world has tasks of its own."""

    refused: tuple[Proposal, ...]
    tasks: tuple[Previewed, ...]


def preview(run: Run, params: nnx.State, count: int) -> Preview:
    """The first `count` tasks of the first slice, asked of a model with these weights, which reviews its answers at the
    rubric's own thresholds. Nothing is written."""
    writer, index, material = run.writer(params), Index(run.passages(1)), run.material(1)
    tasks, refused = material.tasks[:count], ()
    if not tasks and run.kinds:
        proposer = Proposer(writer, run.scorer, run.kinds, index, run.world.untaught)
        some = material.documents[: -(-count // run.world.per_document) + 1]
        proposals = proposer(some, run.seed("preview"))
        tasks = tasks_of(proposals, run.world.per_document)[:count]
        refused = tuple(p for p in proposals if p.reason)
    samples = run.config.simulate.samples
    drafts = [draft(writer, index, t, n, "preview") for t in tasks for n in range(samples)]
    written = finish(writer, index, drafts, generation=0, seed=run.seed("preview")) if drafts else []
    reviews = run.reviewer(params).review(written, {t.id: t for t in tasks}, {p.id: p for p in index.passages})
    return Preview(refused, tuple(_of_tasks(tasks, written, reviews, samples)))


def _of_tasks(
    tasks: tuple[Task, ...], written: list[Transcript], reviews: list[Review], samples: int
) -> Iterator[Previewed]:
    for number, task in enumerate(tasks):
        own = slice(number * samples, (number + 1) * samples)
        yield Previewed(task, tuple(written[own]), tuple(reviews[own]))

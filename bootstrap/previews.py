"""A few tasks through simulate and review before anything trains: what a run would ask, answer and accept."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

from etils import epath
from flax import nnx

from ratchet.bootstrap.proposals import Proposal, Proposer
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.teacher.afar import Afar, Scribe
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Document, Task


@dataclass(frozen=True)
class Previewed:
    """A task with what it is about, the answers that the simulator gives to it, and their reviews."""

    task: Task
    documents: tuple[Document, ...]
    transcripts: tuple[Transcript, ...]
    reviews: tuple[Review, ...]


@dataclass(frozen=True)
class Preview:
    """`refused` are proposals that are no tasks; there are none where the world has tasks of its own."""

    refused: tuple[Proposal, ...]
    tasks: tuple[Previewed, ...]


def preview(run: Run, params: nnx.State, count: int, number: int) -> Preview:
    """The first `count` tasks of the first slice, asked of the model with these weights or, where it would write
    generation `number`, of the teacher by address. The model, or the judge by address, reviews the answers at the
    rubric's own thresholds. Nothing is written into the run's directory: what servers say is kept beside it meanwhile.
    """
    with tempfile.TemporaryDirectory() as aside:
        return _preview(run, replace(run, directory=epath.Path(aside)), params, count, number)


def _preview(run: Run, aside: Run, params: nnx.State, count: int, number: int) -> Preview:
    writer, index, material = run.writer(params), Index(run.passages(1)), run.material(1)
    tasks, refused = material.tasks[:count], ()
    if not tasks and run.kinds:
        proposer = Proposer(writer, run.scorer, run.kinds, index, run.world.untaught)
        some = material.documents[: -(-count // run.world.per_document) + 1]
        proposals = proposer(some, run.seed("preview"))
        tasks = run.tasks_among(proposals)[:count]
        refused = tuple(p for p in proposals if p.reason)
    samples = run.config.simulate.samples
    drafts = [draft(writer, index, t, n, "preview") for t in tasks for n in range(samples)]
    passages, how = {p.id: p for p in index.passages}, {"generation": 0, "seed": run.seed("preview")}
    if run.config.teacher.url and number <= run.config.teacher.generations:
        scribe = Scribe(writer, run.scorer, run.config.targets.kind != "one_hot")
        written = Afar(aside.teacher, scribe, index).finish(drafts, passages, **how) if drafts else []
    else:
        written = finish(writer, index, drafts, **how) if drafts else []
    seed = lambda: params if number == 1 else run.seed_weights
    reviewer = replace(aside.reviewer(params), seed=seed)
    reviews = reviewer.review(written, {t.id: t for t in tasks}, passages)
    about = {d.id: d for d in material.documents}
    return Preview(refused, tuple(_of_tasks(tasks, about, written, reviews, samples)))


def _of_tasks(
    tasks: tuple[Task, ...], about: dict[str, Document], written: list[Transcript], reviews: list[Review], samples: int
) -> Iterator[Previewed]:
    for number, task in enumerate(tasks):
        own = slice(number * samples, (number + 1) * samples)
        documents = tuple(about[i] for i in task.document_ids if i in about)
        yield Previewed(task, documents, tuple(written[own]), tuple(reviews[own]))

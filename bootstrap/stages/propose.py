"""Tasks for documents that come without any: what the incumbent proposes about them, committed unit by unit."""

from collections.abc import Callable, Sequence

from flax import nnx

from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.proposals import Proposal, Proposer, from_json, tasks_of, to_json
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import content_id


class NoTasks(RuntimeError):
    """No document has a task."""


def propose(run: Run, number: int, weights: Callable[[], nnx.State]) -> None:
    """Commits proposals about what generation `number` reads for the first time, or with 0 about the fresh documents,
    by a model with the `weights` that are given when they are needed. Nothing is done where the world has tasks of its
    own, or all is committed.

    Raises NoTasks when none of them is a task.
    """
    material = run.material(number)
    if material.tasks or not run.kinds or not material.documents:
        return
    stage, size, made = Stage(run.proposals(number)), run.config.simulate.unit_tasks, []
    kinds, seed = content_id(run.kinds.model_dump()), run.seed(number, "propose")
    parts = [material.documents[start : start + size] for start in range(0, len(material.documents), size)]
    inputs = [content_id("propose", n, number, kinds, [[d.id, d.text] for d in part]) for n, part in enumerate(parts)]
    if all(stage.has(unit, given) for unit, given in enumerate(inputs)):
        return
    index = Index(run.passages(number)) if number else run.fresh_index
    proposer = Proposer(run.writer(weights()), run.scorer, run.kinds, index, run.world.untaught)
    with run.progress.stage(f"gen {number} propose", len(material.documents)) as advance:
        for unit, (part, given) in enumerate(zip(parts, inputs, strict=True)):
            found = stage.has(unit, given)
            made += stage.unit(unit, given, lambda part=part: [to_json(p) for p in proposer(part, seed)])
            advance(len(part), found=found)
    _tell(run, number, [from_json(p) for p in made])


def _tell(run: Run, number: int, proposals: Sequence[Proposal]) -> None:
    """Says how many proposals are tasks. Raises NoTasks when none is."""
    tasks = tasks_of(proposals, run.world.per_document)
    covered = len({t.document_ids for t in tasks})
    run.progress.line(
        f"gen {number} propose: {len(proposals)} proposed, {len(tasks)} kept, of {covered} of "
        f"{len({p.document for p in proposals})} documents"
    )
    if not tasks:
        raise NoTasks(
            f"generation {number}: none of {len(proposals)} proposed tasks can be answered with its document and not "
            f"without it (the first: {proposals[0].reason}); start a new run with other kinds, --documents.tasks FILE, "
            "or one question about every document, --documents.question"
        )

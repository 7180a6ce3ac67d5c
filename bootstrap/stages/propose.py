"""Tasks for documents that come without any: what the incumbent proposes about them, committed unit by unit."""

from collections.abc import Sequence

from flax import nnx

from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.proposals import Proposal, Proposer, from_json, tasks_of, to_json
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import content_id


class NoTasks(RuntimeError):
    """No document has a task."""


def propose(run: Run, number: int, params: nnx.State) -> None:
    """Commits proposals about what generation `number` reads for the first time, or with 0 about the fresh documents,
    by a model with these weights. Nothing is done where the world has tasks of its own.

    Raises NoTasks when none of them is a task.
    """
    material = run.material(number)
    if material.tasks or not run.kinds or not material.documents:
        return
    index = Index(run.passages(number)) if number else run.fresh_index
    proposer = Proposer(run.writer(params), run.scorer, run.kinds, index, run.world.untaught)
    stage, size, made = Stage(run.proposals(number)), run.config.simulate.unit_tasks, []
    documents, kinds, seed = material.documents, content_id(run.kinds.model_dump()), run.seed(number, "propose")
    with run.progress.stage(f"gen {number} propose", len(documents)) as advance:
        for unit, start in enumerate(range(0, len(documents), size)):
            part = documents[start : start + size]
            inputs = content_id("propose", unit, number, kinds, [[d.id, d.text] for d in part])
            found = stage.has(unit, inputs)
            made += stage.unit(unit, inputs, lambda part=part: [to_json(p) for p in proposer(part, seed)])
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

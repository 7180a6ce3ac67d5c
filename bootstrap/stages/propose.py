"""Tasks for documents that come without any: what the incumbent proposes about them, committed unit by unit."""

from collections.abc import Sequence

from flax import nnx

from ratchet.bootstrap.proposals import Proposal, Proposer, from_json, to_json
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import Document, content_id


class NoTasks(RuntimeError):
    """No document has a task."""


def missing(run: Run, number: int) -> bool:
    """Whether generation `number` reads documents about which tasks are still to be proposed, or about which none was
    kept: a run that was killed before it said so does not go on. 0 stands for the fresh ones."""
    units, stage = _units(run, number), run.stage(run.proposals(number))
    done = all(stage.has(unit, inputs) for unit, (_, inputs) in enumerate(units))
    return not done or bool(units and not run.tasks(number))


def _units(run: Run, number: int) -> list[tuple[Sequence[Document], str]]:
    """The documents of each unit, and what its proposals follow from; none where the world has tasks of its own."""
    material, size = run.material(number), run.config.simulate.unit_tasks
    if material.tasks or not run.kinds:
        return []
    kinds = content_id(run.kinds.model_dump())
    parts = [material.documents[start : start + size] for start in range(0, len(material.documents), size)]
    return [
        (part, content_id("propose", unit, number, kinds, [[d.id, d.text] for d in part]))
        for unit, part in enumerate(parts)
    ]


def propose(run: Run, number: int, params: nnx.State) -> None:
    """Commits proposals about what generation `number` reads for the first time, or with 0 about the fresh documents,
    by a model with these weights. Raises NoTasks when none of them is a task."""
    units, stage, made = _units(run, number), run.stage(run.proposals(number)), []
    index = Index(run.passages(number)) if number else run.fresh_index
    proposer = Proposer(run.writer(params), run.scorer, run.kinds, index, run.world.untaught)
    seed = run.seed(number, "propose")
    with run.progress.stage(f"gen {number} propose", sum(len(part) for part, _ in units)) as advance:
        for unit, (part, inputs) in enumerate(units):
            found = stage.has(unit, inputs)
            made += stage.unit(unit, inputs, lambda part=part: [to_json(p) for p in proposer(part, seed)])
            advance(len(part), found=found)
    _tell(run, number, [from_json(p) for p in made])


def _tell(run: Run, number: int, proposals: Sequence[Proposal]) -> None:
    """Says how many proposals are tasks. Raises NoTasks when none is."""
    tasks = run.tasks_among(proposals)
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

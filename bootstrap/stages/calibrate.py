"""The review's calibration in a generation, and what the reviewer got wrong as training examples."""

import functools
from collections.abc import Mapping, Sequence

from ratchet.bootstrap import examples
from ratchet.bootstrap.calibration import Probe, ReviewerBelowFloor, measure
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.probes import (
    calibrated,
    calibration_of_seed,
    judged_by_seed,
    junk_probes,
    kept_answers,
    labelled_probes,
    probe_answers,
)
from ratchet.bootstrap.review import Reviewer, with_thresholds
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.records import Example

JUNKED = 8
"""Answers of a generation that junk is made of, where no right verdicts are known."""


def teaches(run: Run) -> bool:
    """Whether reviewers learn from what they get wrong of their probes. Probes of their own are for measuring alone."""
    return bool(run.world.known and not run.world.probes.tasks and (_own(run.rubric) or not run.config.judge.url))


def probed(run: Run, number: int) -> int:
    """How many tasks or, where no right answers are known, transcripts of a generation give the probes that its review
    is calibrated by, and in generation 0 the run's judge; 0 where nothing is calibrated anew."""
    judged = judged_by_seed(run)
    if number == 0 and not judged or number == 1 and judged and not teaches(run):
        return 0
    return len(run.probes) if run.world.known else JUNKED


def calibration(g: Generation, written: Sequence[Transcript]) -> tuple[Reviewer, dict, list[Example]]:
    """The calibrated reviewer, its measured quality, and its failures on the probes as training examples.

    A world that knows no right verdicts leaves the thresholds as the rubric has them: what can be measured then is
    whether junk made of what was `written` passes. Raises ReviewerBelowFloor; what was measured is then in
    calibration.json.
    """
    run = g.run
    reviewer = run.reviewer(g.params)
    known = run.world.known is not None
    passages = {p.id: p for p in run.seed_index.passages} if known else g.passages
    teach = teaches(run)

    @functools.cache
    def probes() -> list[Probe]:
        if not known:
            return _junk_of(g, written)
        answer = lambda: probe_answers(run, g.author(captured=False), g.number, g.seed("probes"))
        return labelled_probes(run, kept_answers(run, g.number, answer) if teach else answer())

    def make() -> dict:
        if known and not teach and g.incumbent == 0:
            return calibration_of_seed(run)
        return calibrated(run, g.number, reviewer, probes(), passages) if known else waved_through()

    def waved_through() -> dict:
        reviews = reviewer.review([p.transcript for p in probes()], {p.task.id: p.task for p in probes()}, passages)
        measured = measure(reviewer, probes(), reviews)
        passed = {"junk": measured["review"]["junk"]}
        if passed["junk"]:
            reason = (
                f"review: {passed['junk']:.2f} of the junk probes passed; start a new run with more criteria in its "
                "--review.rubric, or with higher thresholds"
            )
            return measured | {"review": passed, "below_floor": reason}
        kept = ("kind", "question", "tags", "threshold", "standing", "junk")
        return {"criteria": {n: {k: c[k] for k in kept} for n, c in measured["criteria"].items()}, "review": passed}

    measured = run.commits.once(g.directory / "calibration.json", make)
    if reason := measured.get("below_floor"):
        raise ReviewerBelowFloor(reason, measured)
    if not known:
        run.progress.line(f"gen {g.number} review: no labels, so nothing is calibrated; thresholds are the rubric's")
    reviewer, before = with_thresholds(reviewer, measured), reviewer
    usual = {c.id for c in before.criteria if c.standing == "required"}
    for c in reviewer.criteria:
        worth = measured["criteria"][c.id].get("auc")
        if c.id in usual and c.kind != "rule" and worth and worth["low"] <= 0.5:
            auc = "AUC {value:.2f}, 95 % from {low:.2f} to {high:.2f}".format(**worth)
            standing = "needed to reach the target, though" if c.required else "advisory,"
            run.progress.line(f"gen {g.number} review: {c.id} is {standing} no better than chance ({auc})")
    if not teach:
        return reviewer, measured, []
    return reviewer, measured, _mistakes(g, reviewer, probes(), passages)


def _junk_of(g: Generation, written: Sequence[Transcript]) -> list[Probe]:
    """Junk made of some of this generation's own answers."""
    some = written[:: max(1, len(written) // JUNKED)]
    views = [[g.passages[p] for p in t.passages] for t in some]
    made = [junk_probes(t, g.read[t.task_id], view, g.run.tokenizer) for t, view in zip(some, views, strict=True)]
    return [probe for group in made for probe in group]


def _own(criteria: Sequence[Criterion]) -> list[Criterion]:
    """The criteria that the model itself answers by yes or no: mistakes of another judge are not its own."""
    return [c for c in criteria if c.kind == "model" and not c.labels and c.judge == "self"]


def _mistakes(
    g: Generation, reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document]
) -> list[Example]:
    """Examples from the probes on which a model criterion was wrong, labelled by what the world knows."""
    run = g.run
    reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
    made = []
    for criterion in _own(reviewer.criteria):
        for probe, review in zip(probes, reviews, strict=True):
            label = probe.labels.get(criterion.id)
            if label is None or review.verdicts[criterion.id].passed == label:
                continue
            view = tuple(passages[p] for p in probe.transcript.passages)
            task, said = probe.task, probe.transcript.text
            lineage = {"kind": criterion.id, "task": task.id, "generation": g.number, "said": said}
            asked = examples.labelled(criterion, run.world, task, said, view, reviewer)
            made += [
                examples.verdict_example(run.tokenizer, context, [(question, right)], "review", lineage)
                for context, question, right in asked
            ]
    return made

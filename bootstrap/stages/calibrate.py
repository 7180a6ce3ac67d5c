"""The review's calibration in a generation, and what the reviewer got wrong as training examples."""

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
    own_answers,
)
from ratchet.bootstrap.review import Reviewer, with_thresholds
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.records import Example

JUNKED = 8
"""Answers of a generation that junk is made of, where no right verdicts are known."""


def probed(run: Run, number: int) -> int:
    """How many tasks or, where no right answers are known, transcripts of a generation give the answers that its review
    is calibrated by and practises on, and in generation 0 those that the run's judge is calibrated by."""
    if not run.world.known:
        return JUNKED if number else 0
    taught = number == 1 and bool(run.config.teacher.url)
    anew = taught or number > 1 or (number == 0) == judged_by_seed(run)  # the judge's calibration serves generation 1
    return len(run.probes) * anew + len(run.practice) * (number > 0 and bool(_own(run.rubric)))


def calibration(g: Generation, written: Sequence[Transcript]) -> tuple[Reviewer, dict, list[Example]]:
    """The calibrated reviewer, its measured quality, and its failures in practice as training examples.

    A world that knows no right verdicts leaves the thresholds as the rubric has them: what can be measured then is
    whether junk made of what was `written` passes. Raises ReviewerBelowFloor; what was measured is then in
    calibration.json.
    """
    run = g.run
    reviewer = run.reviewer(g.params)
    known = run.world.known is not None
    passages = {p.id: p for p in run.seed_index.passages} if known else g.passages

    def make() -> dict:
        if not known:
            return waved_through()
        if g.incumbent == 0 and judged_by_seed(run) and not g.teacher:
            return calibration_of_seed(run)
        answers = own_answers(run, g.author(captured=False), run.probes, g.number, g.seed("probes"), g.teacher)
        return calibrated(run, g.number, reviewer, labelled_probes(run, run.probes, answers), passages)

    def waved_through() -> dict:
        probes = _junk_of(g, written)
        reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
        measured = measure(reviewer, probes, reviews)
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
    return reviewer, measured, _mistakes(g, reviewer, passages) if known else []


def _junk_of(g: Generation, written: Sequence[Transcript]) -> list[Probe]:
    """Junk made of some of this generation's own answers."""
    some = written[:: max(1, len(written) // JUNKED)]
    views = [[g.passages[p] for p in t.passages] for t in some]
    made = [junk_probes(t, g.read[t.task_id], view, g.run.tokenizer) for t, view in zip(some, views, strict=True)]
    return [probe for group in made for probe in group]


def _own(criteria: Sequence[Criterion]) -> list[Criterion]:
    """The criteria that the model itself answers by yes or no: mistakes of another judge are not its own."""
    return [c for c in criteria if c.kind == "model" and not c.labels and c.judge == "self"]


def _mistakes(g: Generation, reviewer: Reviewer, passages: Mapping[str, Document]) -> list[Example]:
    """Examples of what a criterion of the model itself got wrong about answers to the tasks that it practises on,
    labelled by what the world knows. The probes are others: what is measured with them is never learned from them."""
    run = g.run
    if not run.practice or not _own(reviewer.criteria):
        return []
    answer = lambda: own_answers(run, g.author(captured=False), run.practice, g.number, g.seed("practice"))
    labelled = labelled_probes(run, run.practice, kept_answers(run, g.number, answer))
    probes = [probe for probe in labelled if not probe.junk]
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

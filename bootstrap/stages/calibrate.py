"""Calibration: probes whose right verdicts are known, the reviewer that they call for, and what it got wrong."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ratchet.bootstrap import examples
from ratchet.bootstrap.calibration import Probe, ReviewerBelowFloor, calibrate, measure
from ratchet.bootstrap.ledger import once
from ratchet.bootstrap.review import AGREEMENT, Reviewer, with_thresholds
from ratchet.bootstrap.run import Generation
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.train.records import Example

SIBLINGS = 2
"""Answers to each probe's task, where nothing is asked of how many of them agree."""
JUNK_OF = 8
"""One answer in so many gives junk probes."""


def calibration(g: Generation, written: Sequence[Transcript]) -> tuple[Reviewer, dict, list[Example]]:
    """The calibrated reviewer, its measured quality, and its failures on the probes as training examples.

    A world that knows no right verdicts leaves the thresholds as the rubric has them: what can be measured then is
    whether junk made of what was `written` passes. Raises ReviewerBelowFloor; what was measured is then in
    calibration.json.
    """
    run = g.run
    reviewer = run.reviewer(g.params)
    known = run.world.known is not None
    probes = _probes(g) if known else _junk_of(g, written)
    passages = {p.id: p for p in run.seed_index.passages} if known else g.passages

    def make() -> dict:
        try:
            return calibrate(reviewer, probes, passages, run.config.review)[1] if known else waved_through()
        except ReviewerBelowFloor as below:
            return below.measured | {"below_floor": str(below)}

    def waved_through() -> dict:
        reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
        measured = measure(reviewer, probes, reviews)
        passed = {"junk": measured["review"]["junk"]}
        if passed["junk"]:
            raise ReviewerBelowFloor(
                f"review: {passed['junk']:.2f} of the junk probes passed; add criteria to the rubric or raise their "
                "thresholds",
                measured | {"review": passed},
            )
        kept = ("kind", "question", "threshold", "standing", "junk")
        return {"criteria": {n: {k: c[k] for k in kept} for n, c in measured["criteria"].items()}, "review": passed}

    measured = once(g.directory / "calibration.json", make)
    if reason := measured.get("below_floor"):
        raise ReviewerBelowFloor(reason, measured)
    calibrated = with_thresholds(reviewer, measured)
    required = {c.id for c in reviewer.criteria if c.required}
    for c in calibrated.criteria:
        if c.id in required and not c.required:
            auc = "AUC {value:.2f}, 95 % from {low:.2f} to {high:.2f}".format(**measured["criteria"][c.id]["auc"])
            run.progress.line(f"gen {g.number} review: {c.id} is advisory, no better than chance ({auc})")
    return calibrated, measured, _mistakes(g, calibrated, probes, passages) if known else []


def _junk_of(g: Generation, written: Sequence[Transcript]) -> list[Probe]:
    """Junk made of some of this generation's own answers."""
    some = written[:: max(1, len(written) // JUNK_OF)]
    views = [[g.passages[p] for p in t.passages] for t in some]
    made = [junk_probes(t, g.read[t.task_id], view, g.run.tokenizer) for t, view in zip(some, views, strict=True)]
    return [probe for group in made for probe in group]


def _probes(g: Generation) -> list[Probe]:
    """The incumbent's own answers to the held-out worked tasks, and junk."""
    run = g.run
    siblings = run.config.simulate.samples if any(c.id == AGREEMENT for c in run.rubric) else SIBLINGS
    drafts = [draft(g.writer, run.seed_index, t, n, f"probe {g.number}") for t in run.probes for n in range(siblings)]
    written = finish(g.writer, run.seed_index, drafts, generation=g.number, seed=g.seed("probes"))
    grades = [run.world.known(run.probes[n // siblings], t.text, "") for n, t in enumerate(written)]
    graded = {name for grade in grades for step in grade.steps for name in step}
    passages = {p.id: p for p in run.seed_index.passages}
    probes = []
    for n, (t, grade) in enumerate(zip(written, grades, strict=True)):
        task = run.probes[n // siblings]
        labels = {name: all(step.get(name, True) for step in grade.steps) for name in graded}
        probes.append(Probe(t, task, grade.right and t.finished, labels))
        if n % JUNK_OF == 0:
            probes += junk_probes(t, task, [passages[p] for p in t.passages], run.tokenizer)
    return probes


def junk_probes(t: Transcript, task: Task, passages: Sequence[Document], tokenizer) -> list[Probe]:
    """Answers that no reviewer may wave through: empty, ":", "yes", the source pasted back, a shuffled transcript."""
    words = t.text.split()
    random.Random(t.id).shuffle(words)
    texts = ["", ":", "yes", passages[0].text if passages else "", " ".join(words)]
    made = []
    for number, text in enumerate(texts):
        if text != t.text:
            tokens = tuple(tokenizer.encode(text))
            junk = replace(t, id=f"{t.id}-junk{number}", source="junk", text=text, tokens=tokens)
            made.append(Probe(junk, task, False, {}, junk=True))
    return made


def _mistakes(
    g: Generation, reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document]
) -> list[Example]:
    """Examples from the probes on which a model criterion was wrong, labelled by what the world knows."""
    run = g.run
    reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
    made = []
    for criterion in reviewer.criteria:
        for probe, review in zip(probes, reviews, strict=True):
            label = probe.labels.get(criterion.id)
            if criterion.kind != "model" or label is None or review.verdicts[criterion.id].passed == label:
                continue
            view = tuple(passages[p] for p in probe.transcript.passages)
            asked = examples.labelled(criterion, run.world, probe.task, probe.transcript.text, view, reviewer)
            for context, question, right in asked:
                lineage = {"kind": criterion.id, "task": probe.task.id, "generation": g.number}
                pair = [(question, right)]
                made.append(examples.verdict_example(run.tokenizer, context, pair, "review", lineage))
    return made

"""Calibration: probes whose right verdicts are known, the thresholds they call for, and what the reviewer got wrong."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratchet.bootstrap import examples
from ratchet.bootstrap.config import ReviewConfig
from ratchet.bootstrap.intervals import agreement
from ratchet.bootstrap.review import Criterion, Reviewer, with_thresholds
from ratchet.bootstrap.run import Generation
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.train.records import Example

LENIENT = (1.0, 0.97, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
"""Shares of the right probes that a model criterion lets pass, tried from the most lenient on."""
SIBLINGS = 2
"""Answers to each probe's task."""
JUNK_OF = 8
"""One answer in so many gives junk probes."""


class ReviewerBelowFloor(RuntimeError):
    """The reviewer cannot be trusted; the generation stops. `measured` is its quality at the thresholds tried last."""

    def __init__(self, message: str, measured: dict):
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Probe:
    """A transcript whose right verdicts are known: overall, and for model criteria by name."""

    transcript: Transcript
    task: Task
    right: bool
    labels: Mapping[str, bool]
    junk: bool = False


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
        measured = measure(reviewer.criteria, probes, reviews)
        passed = {"junk": measured["review"]["junk"]}
        if passed["junk"]:
            raise ReviewerBelowFloor(
                f"review: {passed['junk']:.2f} of the junk probes passed; start a new run with more criteria in its "
                "--review.rubric, or with higher thresholds",
                measured | {"review": passed},
            )
        kept = ("kind", "question", "threshold", "junk")
        return {"criteria": {n: {k: c[k] for k in kept} for n, c in measured["criteria"].items()}, "review": passed}

    measured = run.commits.once(g.directory / "calibration.json", make)
    if reason := measured.get("below_floor"):
        raise ReviewerBelowFloor(reason, measured)
    calibrated = with_thresholds(reviewer, measured)
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
    drafts = [draft(g.writer, run.seed_index, t, n, f"probe {g.number}") for t in run.probes for n in range(SIBLINGS)]
    written = finish(g.writer, run.seed_index, drafts, generation=g.number, seed=g.seed("probes"))
    grades = [run.world.known(run.probes[n // SIBLINGS], t.text, "") for n, t in enumerate(written)]
    graded = {name for grade in grades for step in grade.steps for name in step}
    passages = {p.id: p for p in run.seed_index.passages}
    probes = []
    for n, (t, grade) in enumerate(zip(written, grades, strict=True)):
        task = run.probes[n // SIBLINGS]
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
            junk = replace(t, id=f"{t.id}-junk{number}", text=text, tokens=tuple(tokenizer.encode(text)))
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
            label = probe.labels.get(criterion.name)
            if criterion.kind != "model" or label is None or review.verdicts[criterion.name].passed == label:
                continue
            view = tuple(passages[p] for p in probe.transcript.passages)
            asked = examples.labelled(criterion, run.world, probe.task, probe.transcript.text, view, reviewer)
            for context, question, right in asked:
                lineage = {"kind": criterion.name, "task": probe.task.id, "generation": g.number}
                pair = [(question, right)]
                made.append(examples.verdict_example(run.tokenizer, context, pair, "review", lineage))
    return made


def calibrate(
    reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document], config: ReviewConfig
) -> tuple[Reviewer, dict]:
    """Sets the model criteria's thresholds to the most lenient ones at which the review reaches the target precision.

    Returns the calibrated reviewer and what was measured per criterion: TPR, TNR, Cohen's κ, precision, recall, junk.
    Raises ReviewerBelowFloor when no thresholds reach the target with enough recall, or junk passes.
    """
    tasks = {p.task.id: p.task for p in probes}
    reviews = reviewer.review([p.transcript for p in probes], tasks, passages)
    best: tuple[Reviewer, dict] | None = None
    for share in LENIENT:
        criteria = tuple(_threshold(c, share, probes, reviews) for c in reviewer.criteria)
        measured = measure(criteria, probes, reviews)
        overall = measured["review"]
        if overall["precision"] >= config.target_precision and overall["junk"] == 0:
            best = (replace(reviewer, criteria=criteria), measured)
            break
    if best is None:
        raise ReviewerBelowFloor(
            f"review: precision {overall['precision']:.2f} on the probes at every threshold, {config.target_precision} "
            "is the target; look at calibration.json, and start a new run with more criteria in its --review.rubric or "
            "a lower --review.target-precision",
            measured,
        )
    if best[1]["review"]["recall"] < config.minimum_recall:
        raise ReviewerBelowFloor(
            f"review: recall {best[1]['review']['recall']:.2f} on the probes at the target precision, "
            f"{config.minimum_recall} is the floor; look at calibration.json, and start a new run with a lower "
            "--review.minimum-recall",
            best[1],
        )
    return best


def _threshold(criterion: Criterion, share: float, probes: Sequence[Probe], reviews: Sequence[Review]) -> Criterion:
    """The threshold that lets this share of the rightly labelled probes pass, of those whose answer can be read."""
    if criterion.kind == "programmatic":
        return criterion
    pairs = zip(probes, reviews, strict=True)
    scores = [r.verdicts[criterion.name].p_pass for p, r in pairs if p.labels.get(criterion.name)]
    scores = [p_pass for p_pass in scores if p_pass > 0]  # unreadable ones never pass and would pull it down to 0
    if not scores:
        return criterion
    slack = 0.5 if share == 1.0 else 1.0  # new documents vary more than probes: no stricter than precision asks for
    return criterion.model_copy(update={"threshold": slack * float(np.quantile(scores, 1 - share))})


def measure(criteria: Sequence[Criterion], probes: Sequence[Probe], reviews: Sequence[Review]) -> dict:
    """Quality of every criterion against its own labels, and of the whole review against rightness."""
    passes = {c.name: np.array([_passes(c, r) for r in reviews], bool) for c in criteria}
    accepted = np.all([passes[c.name] for c in criteria if c.required], axis=0)
    right = np.array([p.right for p in probes], bool)
    junk = np.array([p.junk for p in probes], bool)
    found = {}
    for c in criteria:
        label = np.array([p.labels.get(c.name, p.right) for p in probes], bool)
        found[c.name] = {
            "kind": c.kind,
            "question": c.question,
            "threshold": c.threshold,
            **agreement(passes[c.name][~junk], label[~junk]),
            "junk": _share(passes[c.name][junk]),
        }
    return {"criteria": found, "review": agreement(accepted[~junk], right[~junk]) | {"junk": _share(accepted[junk])}}


def _passes(criterion: Criterion, review: Review) -> bool:
    verdict = review.verdicts[criterion.name]
    if criterion.kind == "programmatic":
        return verdict.passed
    return verdict.p_pass > 0 and verdict.p_pass >= criterion.threshold


def _share(passed: np.ndarray) -> float:
    return float(passed.mean()) if len(passed) else 0.0

"""The thresholds that labelled answers call for, and how well each criterion tells right from wrong by them.

A threshold drifts as a model changes, so it is measured anew in every generation, on labels, and so is precision.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratchet.bootstrap.config import ReviewConfig
from ratchet.bootstrap.intervals import agreement, auc
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.signals import scale
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Document, Task

LENIENT = (1.0, 0.97, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
"""Shares of the right probes that a scored criterion lets pass, tried from the most lenient on."""


class ReviewerBelowFloor(RuntimeError):
    """The reviewer cannot be trusted; the generation stops. `measured` is its quality at the thresholds tried last."""

    def __init__(self, message: str, measured: dict):
        super().__init__(message)
        self.measured = measured


@dataclass(frozen=True)
class Probe:
    """A transcript whose right verdicts are known: overall, and for criteria of steps by id."""

    transcript: Transcript
    task: Task
    right: bool
    labels: Mapping[str, bool]
    junk: bool = False


def calibrate(
    reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document], config: ReviewConfig,
    reached: Callable[[float], None] = lambda share: None,
) -> tuple[Reviewer, dict]:  # fmt: skip
    """Sets the thresholds of scored criteria to the most lenient ones at which the review reaches the target precision.

    First, what is no better than chance at telling right probes from wrong ones loses its say (`_by_their_worth`).
    Where what is left does not reach the target, the likelihoods among these have their say again. Returns the
    calibrated reviewer and what was measured per criterion: threshold, standing, AUC, TPR, TNR, Cohen's κ, precision,
    recall, junk. `reached` hears which share is reviewed. Raises ReviewerBelowFloor when no thresholds reach the target
    with enough recall, when no probe is right, by which recall is measured, when junk passes, and when no criterion has
    a say.
    """
    tasks = {p.task.id: p.task for p in probes}
    reviews = reviewer.review([p.transcript for p in probes], tasks, passages, reached=reached)
    worthy = _by_their_worth(reviewer.criteria, probes, reviews)
    kept = [c if c.kind == "likelihood" else w for c, w in zip(reviewer.criteria, worthy, strict=True)]
    found = _most_lenient(replace(reviewer, criteria=worthy), probes, reviews, config)
    if config.minimum_recall and not any(p.right and not p.junk for p in probes):
        raise ReviewerBelowFloor(
            "review: none of the answers to the probes is right, so that no recall can be measured, and "
            f"{config.minimum_recall} is the floor; look at calibration.json, and start a new run with more "
            "--review.probes or with --review.minimum-recall 0",
            found[1],
        )
    if (reason := _below_floor(*found, config)) and tuple(kept) != worthy:
        second = _most_lenient(replace(reviewer, criteria=tuple(kept)), probes, reviews, config)
        if not _below_floor(*second, config):
            return second
    if reason:
        raise ReviewerBelowFloor(f"review: {reason}", found[1])
    return found


def _most_lenient(
    reviewer: Reviewer, probes: Sequence[Probe], reviews: Sequence[Review], config: ReviewConfig
) -> tuple[Reviewer, dict]:
    """The reviewer with the most lenient thresholds that reach the target precision and let no junk pass, or with the
    strictest, and what was measured of it."""
    for share in LENIENT:
        set_anew = lambda c: reviewer.scores(c) and scale(c.id).calibrated
        criteria = [_threshold(c, share, probes, reviews) if set_anew(c) else c for c in reviewer.criteria]
        tried = replace(reviewer, criteria=tuple(criteria))
        measured = measure(tried, probes, reviews)
        if measured["review"]["precision"] >= config.target_precision and measured["review"]["junk"] == 0:
            break
    return tried, measured


def _below_floor(reviewer: Reviewer, measured: Mapping[str, dict], config: ReviewConfig) -> str:
    """Why a reviewer of which this was `measured` cannot be trusted, or ""."""
    overall = measured["review"]
    if not any(c.required for c in reviewer.criteria):
        return (
            "no required criterion is better than chance on the probes; look at calibration.json and add criteria to "
            "the rubric"
        )
    if overall["precision"] < config.target_precision:
        return (
            f"precision {overall['precision']:.2f} on the probes at the strictest thresholds, "
            f"{config.target_precision} is the target; look at calibration.json, and start a new run with more "
            "criteria in its --review.rubric or a lower --review.target-precision"
        )
    if overall["junk"]:
        return (
            f"{overall['junk']:.2f} of the junk probes passed at the strictest thresholds; look at calibration.json, "
            "and start a new run with more criteria in its --review.rubric"
        )
    if overall["recall"] < config.minimum_recall:
        return (
            f"recall {overall['recall']:.2f} on the probes at the target precision, {config.minimum_recall} is the "
            "floor; look at calibration.json, and start a new run with a lower --review.minimum-recall"
        )
    return ""


def _by_their_worth(
    criteria: Sequence[Criterion], probes: Sequence[Probe], reviews: Sequence[Review]
) -> tuple[Criterion, ...]:
    """The criteria, of which those that a model answers are required where the interval of their AUC lies above 0.5,
    and advisory elsewhere. One that always decides, or never, goes on doing so."""
    found = []
    for c in criteria:
        worth = _worth(c, probes, reviews) if c.kind != "rule" and c.standing in ("required", "earned") else None
        standing = c.standing if worth is None else "required" if worth["low"] > 0.5 else "advisory"
        found.append(c.model_copy(update={"standing": standing}))
    return tuple(found)


def _worth(criterion: Criterion, probes: Sequence[Probe], reviews: Sequence[Review]) -> dict | None:
    """The AUC of a criterion's scores by its labels; None where all are labelled alike. Answers to one task are alike,
    so its interval is that of as many scores as there are tasks. What cannot be read has the lowest score."""
    scores, tasks = ({True: [], False: []} for _ in range(2))
    for p, r in zip(probes, reviews, strict=True):
        if not p.junk:
            verdict, label = r.verdicts[criterion.id], p.labels.get(criterion.id, p.right)
            scores[label].append(verdict.score if verdict.readable else -math.inf)
            tasks[label].append(p.task.id)
    return auc(scores[True], scores[False], (len(set(tasks[True])), len(set(tasks[False]))))


def _threshold(criterion: Criterion, share: float, probes: Sequence[Probe], reviews: Sequence[Review]) -> Criterion:
    """The threshold that lets this share of the rightly labelled probes pass, of those whose answer can be read."""
    of = [(p.labels.get(criterion.id, p.right), r.verdicts[criterion.id]) for p, r in zip(probes, reviews, strict=True)]
    scores = [verdict.score for label, verdict in of if label and verdict.readable]
    if not scores:
        return criterion
    threshold = float(np.quantile(scores, 1 - share))
    if share == 1.0:  # new documents vary more than probes: no stricter than precision asks for
        threshold = threshold - math.log(2) if scale(criterion.id).in_nats else 0.5 * threshold
    return criterion.model_copy(update={"threshold": threshold})


def measure(reviewer: Reviewer, probes: Sequence[Probe], reviews: Sequence[Review]) -> dict:
    """Quality of every criterion, at its threshold, against its own labels, and of the whole review against what is
    right. The scores are those of `reviews`, whatever thresholds these went by."""
    criteria = reviewer.criteria

    def passing(c: Criterion) -> np.ndarray:
        verdicts = [r.verdicts[c.id] for r in reviews]
        from_it = lambda v: v.readable and v.score >= c.threshold
        return np.array([from_it(v) if reviewer.scores(c) else v.passed for v in verdicts], bool)

    passes = {c.id: passing(c) for c in criteria}
    required = [passes[c.id] for c in criteria if c.required]
    accepted = np.all([np.ones(len(reviews), bool), *required], axis=0)
    right = np.array([p.right for p in probes], bool)
    junk = np.array([p.junk for p in probes], bool)
    found = {}
    for c in criteria:
        label = np.array([p.labels.get(c.id, p.right) for p in probes], bool)
        found[c.id] = {
            "kind": c.kind,
            "question": c.question,
            "tags": list(c.tags),
            "threshold": c.threshold,
            "standing": c.standing,
            "auc": _worth(c, probes, reviews) if reviewer.scores(c) else None,
            **agreement(passes[c.id][~junk], label[~junk]),
            "junk": _share(passes[c.id][junk]),
        }
    return {"criteria": found, "review": agreement(accepted[~junk], right[~junk]) | {"junk": _share(accepted[junk])}}


def _share(passed: np.ndarray) -> float:
    return float(passed.mean()) if len(passed) else 0.0

"""Transcripts to verdicts: many small criteria, each asked on its own, and the calibration of their thresholds.

An answer that cannot be read is a rejection with that reason, never a default score.
"""

import importlib.resources
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pydantic
import yaml
from etils import epath
from flax import nnx

from ratchet.bootstrap.checks import CHECKS, Case, count_judgements
from ratchet.bootstrap.config import ReviewConfig
from ratchet.bootstrap.transcript import Document, Review, Task, Transcript, Verdict
from ratchet.bootstrap.worlds.language import Claim
from ratchet.models.scorer import Scorer
from ratchet.models.tokenizer import Tokenizer

LENIENT = (1.0, 0.97, 0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
"""Shares of the right probes that a model criterion lets pass, tried from the most lenient on."""
LABELLED = ("sound", "told")
"""The model criteria whose right answers demonstrations and probes know: they are taught and calibrated."""


class Criterion(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One question of the rubric. `threshold` is the P(yes) that a model criterion passes from; calibration replaces
    it where probes know the right answers, and programmatic criteria have none."""

    name: str
    kind: Literal["model", "programmatic"]
    question: str
    show: tuple[Literal["passages", "question"], ...] = ()
    required: bool = True
    threshold: float = pydantic.Field(0.5, ge=0.0, le=1.0)


def load_rubric(path: str) -> tuple[Criterion, ...]:
    """Criteria from a YAML file, or the built-in ones for "". Raises ValueError naming file, criterion and remedy."""
    built_in = importlib.resources.files("ratchet.bootstrap") / "rubric.yaml"
    file = epath.Path(path) if path else epath.Path(str(built_in))
    try:
        entries = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise ValueError(f"rubric: {file} is missing; set --review.rubric to a YAML file of criteria") from error
    except yaml.YAMLError as error:
        raise ValueError(f"rubric: {file} is no YAML: {' '.join(str(error).split())}; mend it") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"rubric: {file} holds no list of criteria; write one as in bootstrap/rubric.yaml")
    try:
        criteria = tuple(_criterion(number, entry) for number, entry in enumerate(entries, 1))
        if twice := [name for name, count in Counter(c.name for c in criteria).items() if count > 1]:
            raise ValueError(f"two criteria are named {twice[0]}; rename one")
        if not any(c.required for c in criteria):
            raise ValueError("no criterion is required, so everything would pass; require at least one")
    except ValueError as error:
        raise ValueError(f"rubric: {file}: {error}") from error
    return criteria


def _criterion(number: int, entry: object) -> Criterion:
    try:
        c = Criterion.model_validate(entry)
    except pydantic.ValidationError as error:
        named = entry.get("name", number) if isinstance(entry, dict) else number
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"criterion {named}: {field}{first['msg']}; see bootstrap/rubric.yaml") from error
    if c.kind == "programmatic" and c.name not in CHECKS:
        raise ValueError(f"no programmatic criterion {c.name}; there are {', '.join(CHECKS)}")
    try:
        c.question.format_map(dict.fromkeys(Claim._fields, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        known = ", ".join(f"{{{name}}}" for name in Claim._fields)
        raise ValueError(f"the question of {c.name} cannot be filled in: {error}; there are {known}") from error
    return c


@dataclass(frozen=True)
class Reviewer:
    """The model that answers the model criteria, with the criteria and their thresholds."""

    scorer: Scorer
    params: nnx.State
    tokenizer: Tokenizer
    criteria: tuple[Criterion, ...]
    room: int
    """Tokens of a prompt at most."""

    def review(self, transcripts: Sequence[Transcript], tasks: Mapping[str, Task],
               passages: Mapping[str, Document],
               votes: Mapping[str, Counter] | None = None) -> list[Review]:  # fmt: skip
        """One review for each transcript; those given together are each other's siblings unless `votes` are given."""
        votes = count_judgements(transcripts) if votes is None else votes
        cases = [Case(t, tasks[t.task_id], [passages[p] for p in t.passages], votes) for t in transcripts]
        asked = self._ask(cases)
        verdicts = [
            {
                c.name: _check(c, case) if c.kind == "programmatic" else _verdict(c, asked[c.name, number])
                for c in self.criteria
            }
            for number, case in enumerate(cases)
        ]
        required = [c.name for c in self.criteria if c.required]
        return [
            Review(t.id, found, all(found[name].passed for name in required))
            for t, found in zip(transcripts, verdicts, strict=True)
        ]

    def _ask(self, cases: Sequence[Case]) -> Mapping[tuple[str, int], list[tuple[float, float, Claim]]]:
        """By model criterion and case, (P(yes), P(no), claim) of every claim; asked together, they share contexts."""
        prompts, owners = [], []
        for criterion in self.criteria:
            for number, case in enumerate(cases if criterion.kind == "model" else ()):
                texts = [p.text for p in case.passages]
                for claim in case.said.claims:
                    context, question = criterion_prompt(self.tokenizer, criterion, texts, case.task, claim, self.room)
                    prompts.append((tuple(context), tuple(question)))
                    owners.append((criterion.name, number, claim))
        control = self.tokenizer.control
        probs_NA = self.scorer(self.params, prompts, (control["yes"], control["no"]))
        asked = defaultdict(list)
        for (name, number, claim), (yes, no) in zip(owners, probs_NA, strict=True):
            asked[name, number].append((float(yes), float(no), claim))
        return asked


def criterion_prompt(tokenizer: Tokenizer, criterion: Criterion, passages: Sequence[str], task: Task, claim: Claim,
                     room: int) -> tuple[list[int], list[int]]:  # fmt: skip
    """(context, question) in tokens; the next token is the answer. Passages are cut to fit."""
    question = [tokenizer.control["ask"], *tokenizer.encode(criterion.question.format(**claim._asdict()))]
    asked = tokenizer.turn("user", task.question) if "question" in criterion.show else []
    shown = tokenizer.passages(passages) if "passages" in criterion.show else []
    return [*shown[: max(0, room - len(question) - len(asked))], *asked], question[:room]


def _verdict(criterion: Criterion, answers: Sequence[tuple[float, float, Claim]]) -> Verdict:
    if not answers:
        return Verdict(0.0, False, "unreadable: there is no claim to ask about")
    yes, no, claim = min(answers, key=lambda a: a[0] / max(a[0] + a[1], 1e-9))
    if yes + no < 0.5:
        return Verdict(0.0, False, f"unreadable: yes and no together have probability {yes + no:.2f}")
    p_pass = yes / (yes + no)
    passed = p_pass >= criterion.threshold
    return Verdict(p_pass, passed, "" if passed else f"doubts: {claim.action}, {claim.outcome}, {claim.judgement}")


def _check(criterion: Criterion, case: Case) -> Verdict:
    reason = CHECKS[criterion.name](case)
    return Verdict(float(not reason), not reason, reason)


@dataclass(frozen=True)
class Probe:
    """A transcript whose right verdicts are known: overall, and for model criteria by name."""

    transcript: Transcript
    task: Task
    right: bool
    labels: Mapping[str, bool]
    junk: bool = False


def junk_probes(transcript: Transcript, task: Task, passages: Sequence[Document], tokenizer: Tokenizer) -> list[Probe]:
    """Answers that no reviewer may wave through: empty, ":", "yes", the source pasted back, a shuffled transcript."""
    words = transcript.text.split()
    random.Random(transcript.id).shuffle(words)
    texts = ["", ":", "yes", passages[0].text if passages else "", " ".join(words)]
    made = []
    for number, text in enumerate(texts):
        if text != transcript.text:
            junk = replace(
                transcript, id=f"{transcript.id}-junk{number}", text=text, tokens=tuple(tokenizer.encode(text))
            )
            made.append(Probe(junk, task, False, {}, junk=True))
    return made


class ReviewerBelowFloor(RuntimeError):
    """The reviewer cannot be trusted; the generation stops. `measured` is its quality at the thresholds tried last."""

    def __init__(self, message: str, measured: dict):
        super().__init__(message)
        self.measured = measured


def calibrate(reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document],
              config: ReviewConfig) -> tuple[Reviewer, dict]:  # fmt: skip
    """Sets the model criteria's thresholds to the most lenient ones at which the review reaches the target precision.

    Returns the calibrated reviewer and what was measured per criterion: TPR, TNR, Cohen's κ, precision, recall, junk.
    Raises ReviewerBelowFloor when no thresholds reach the target with enough recall, or junk passes.
    """
    tasks = {p.task.id: p.task for p in probes}
    reviews = reviewer.review([p.transcript for p in probes], tasks, passages)
    best: tuple[Reviewer, dict] | None = None
    for share in LENIENT:
        criteria = tuple(_threshold(c, share, probes, reviews) for c in reviewer.criteria)
        candidate = replace(reviewer, criteria=criteria)
        measured = measure(criteria, probes, reviews)
        overall = measured["review"]
        if overall["precision"] >= config.target_precision and overall["junk"] == 0:
            best = (candidate, measured)
            break
    if best is None:
        raise ReviewerBelowFloor(
            f"review: precision {overall['precision']:.2f} on the probes at every threshold, {config.target_precision} "
            "is the target; look at calibration.json, add criteria to the rubric or lower --review.target-precision",
            measured,
        )
    if best[1]["review"]["recall"] < config.minimum_recall:
        raise ReviewerBelowFloor(
            f"review: recall {best[1]['review']['recall']:.2f} on the probes at the target precision, "
            f"{config.minimum_recall} is the floor; look at calibration.json or lower --review.minimum-recall",
            best[1],
        )
    return best


def _threshold(criterion: Criterion, share: float, probes: Sequence[Probe], reviews: Sequence[Review]) -> Criterion:
    """The threshold that lets this share of the rightly labelled probes pass, of those whose answer can be read."""
    if criterion.kind == "programmatic":
        return criterion
    scores = [
        r.verdicts[criterion.name].p_pass for p, r in zip(probes, reviews, strict=True) if p.labels.get(criterion.name)
    ]
    scores = [p_pass for p_pass in scores if p_pass > 0]  # unreadable ones never pass and would pull it down to 0
    if not scores:
        return criterion
    slack = 0.5 if share == 1.0 else 1.0  # new documents vary more than probes: no stricter than precision asks for
    return criterion.model_copy(update={"threshold": slack * float(np.quantile(scores, 1 - share))})


def measure(criteria: Sequence[Criterion], probes: Sequence[Probe], reviews: Sequence[Review]) -> dict:
    """Quality of every criterion against its own labels, and of the whole review against rightness."""
    passes = {c.name: np.array([_passes(c, r.verdicts[c.name]) for r in reviews], bool) for c in criteria}
    accepted = np.all([passes[c.name] for c in criteria if c.required], axis=0)
    right = np.array([p.right for p in probes])
    junk = np.array([p.junk for p in probes])
    found = {}
    for c in criteria:
        label = np.array([p.labels.get(c.name, p.right) for p in probes])
        found[c.name] = {
            "kind": c.kind, "question": c.question, "threshold": c.threshold,
            **agreement(passes[c.name][~junk], label[~junk]), "junk": _share(passes[c.name][junk]),
        }  # fmt: skip
    return {"criteria": found, "review": agreement(accepted[~junk], right[~junk]) | {"junk": _share(accepted[junk])}}


def agreement(passed: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """TPR, TNR, precision, recall and Cohen's κ of verdicts against labels; an empty share counts as 1."""
    tp, fp = int(np.sum(passed & label)), int(np.sum(passed & ~label))
    fn, tn = int(np.sum(~passed & label)), int(np.sum(~passed & ~label))
    total = max(tp + fp + fn + tn, 1)
    observed = (tp + tn) / total
    expected = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    tpr = tp / (tp + fn) if tp + fn else 1.0
    return {
        "tpr": tpr, "tnr": tn / (tn + fp) if tn + fp else 1.0, "recall": tpr,
        "precision": tp / (tp + fp) if tp + fp else 1.0,
        "kappa": (observed - expected) / (1 - expected) if expected < 1 else 1.0, "n": total,
    }  # fmt: skip


def _passes(criterion: Criterion, verdict: Verdict) -> bool:
    return (
        verdict.passed
        if criterion.kind == "programmatic"
        else verdict.p_pass > 0 and verdict.p_pass >= criterion.threshold
    )


def _share(passed: np.ndarray) -> float:
    return float(passed.mean()) if len(passed) else 0.0


def with_thresholds(reviewer: Reviewer, calibration: dict) -> Reviewer:
    """The reviewer with the thresholds of an earlier calibration. Raises ValueError when that had other criteria."""
    if strange := {c.name for c in reviewer.criteria} ^ calibration["criteria"].keys():
        raise ValueError(
            f"review: {min(strange)} stands only in one of rubric and calibration.json; restore the rubric that the "
            "run began with, or start a new run"
        )
    criteria = tuple(
        c.model_copy(update={"threshold": calibration["criteria"][c.name]["threshold"]}) for c in reviewer.criteria
    )
    return replace(reviewer, criteria=criteria)

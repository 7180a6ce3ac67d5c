"""What labels of people say of a review: how well it tells right from wrong, how many answers are right, and a
certificate of its precision, which holds for one judge with one rubric."""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax import nnx
from scipy.special import betaincinv

from ratchet.bootstrap.intervals import agreement, auc
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.world import content_id
from ratchet.train.files import add_line

PRECISION = 0.97
"""What a certificate says of accepted answers: at least this share of them is right."""
CONFIDENCE = 0.95
"""How surely: one-sided, by Clopper and Pearson (doi 10.1093/biomet/26.4.404)."""
OVERALL = "overall"
"""The name by which labels are of a whole answer and not of a criterion."""
LABELS = "labels.jsonl"
"""The file of a run's directory that holds what people say of its answers."""
_FIELDS = {"transcript": str, "criterion": str, "label": bool}


class Label(NamedTuple):
    """Whether a transcript is right by one criterion, or OVERALL, as a person says."""

    transcript: str
    criterion: str
    right: bool


def read_labels(path: epath.Path) -> list[Label]:
    """The labels of a JSONL file: a line is `{"transcript": ID, "criterion": "overall", "label": true}`. Of several for
    the same, the last counts. Raises ValueError naming file, line and field."""
    found: dict[tuple[str, str], Label] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"labels: {path}, line {number}: no JSON ({error}); mend it or remove it") from None
        given = {"criterion": OVERALL} | entry if isinstance(entry, dict) else {}
        for name, kind in _FIELDS.items():
            if not isinstance(given.get(name), kind):
                raise ValueError(
                    f"labels: {path}, line {number}: {name} is {given.get(name)!r}; write "
                    '{"transcript": ID, "criterion": "overall" or an id of the rubric, "label": true or false}'
                )
        found[given["transcript"], given["criterion"]] = Label(given["transcript"], given["criterion"], given["label"])
    return list(found.values())


def add_label(path: epath.Path, label: Label) -> None:
    """Adds a label to a JSONL file."""
    entry = {"transcript": label.transcript, "criterion": label.criterion, "label": label.right}
    add_line(path, json.dumps(entry))


def in_turn(accepted: Mapping[str, bool], generation: int, alone: bool = False) -> list[str]:
    """The ids of a generation's answers in the order in which people are asked about them, from whether each was
    accepted: accepted and rejected ones in turn, or accepted ones `alone`, each in an order drawn by lot."""
    drawn = sorted(accepted)
    random.Random(f"label {generation}").shuffle(drawn)
    sides = [[i for i in drawn if accepted[i] == side] for side in ((True,) if alone else (True, False))]
    return [i for i in chain(*zip_longest(*sides)) if i]


def precision_floor(right: int, accepted: int) -> float:
    """The precision that is surpassed with CONFIDENCE when so many of the accepted answers that were labelled are
    right."""
    return float(betaincinv(right, accepted - right + 1, 1 - CONFIDENCE)) if right else 0.0


def needed(wrong: int) -> int:
    """How many accepted answers have to be labelled, with so many wrong ones among them, for PRECISION."""
    count = wrong + 1
    while precision_floor(count - wrong, count) < PRECISION:
        count += 1
    return count


def corrected_rate(passed: float, tnr: float, tpr: float) -> float | None:
    """The share of right answers, θ = (p + q0 − 1) / (q0 + q1 − 1), when a judge that recognises the shares q0 of wrong
    and q1 of right ones passes the share p (arXiv 2511.21140). None for a judge that is no better than chance."""
    worth = tnr + tpr - 1
    return min(1.0, max(0.0, (passed + tnr - 1) / worth)) if worth > 0 else None


def compared(
    reviews: Mapping[str, Review], labels: Sequence[Label], task_of: Mapping[str, str] = MappingProxyType({})
) -> dict[str, dict[str, Any]]:
    """By criterion, and OVERALL, what labels say of the verdicts of a generation. `task_of` tells which task an answer
    is to.

    Where more of the accepted answers are labelled than of the rejected ones, or the reverse, those that are labelled
    stand for the others with the same verdict. An answer that was refused for repeating another counts nowhere. What
    would need labels of either verdict, and has them of one alone, is None.
    """
    judged = {i: r for i, r in reviews.items() if not r.repeats}
    found = {}
    for name in sorted({label.criterion for label in labels}, key=lambda name: (name != OVERALL, name)):
        passes = {i: r.accepted if name == OVERALL else r.verdicts[name].passed for i, r in judged.items()}
        own = [label for label in labels if label.criterion == name and label.transcript in judged]
        found[name] = _compared(list(passes.values()), own, [passes[label.transcript] for label in own])
        found[name]["auc"] = None if name == OVERALL else _auc(judged, own, task_of)
    return found


def _auc(reviews: Mapping[str, Review], own: Sequence[Label], task_of: Mapping[str, str]) -> dict | None:
    """The AUC of a criterion's scores by labels of it. Answers to one task are alike, so its interval is that of as
    many scores as there are tasks. What cannot be read has the lowest score."""
    scores, tasks = ({True: [], False: []} for _ in range(2))
    for label in own:
        verdict = reviews[label.transcript].verdicts[label.criterion]
        scores[label.right].append(verdict.score if verdict.readable else -math.inf)
        tasks[label.right].append(task_of.get(label.transcript, label.transcript))
    return auc(scores[True], scores[False], (len(set(tasks[True])), len(set(tasks[False]))))


def _compared(passes: Sequence[bool], own: Sequence[Label], passed: Sequence[bool]) -> dict[str, Any]:
    """Figures for one criterion: `passes` are its verdicts on all answers, `passed` those on the labelled ones."""
    verdict, right = np.array(passed, bool), np.array([label.right for label in own], bool)
    share = float(np.mean(passes)) if passes else 0.0
    accepted, rejected, correct = int(np.sum(verdict)), int(np.sum(~verdict)), int(np.sum(verdict & right))
    figures: dict[str, Any] = {
        "labels": len(own),
        "accepted": accepted,
        "wrong": accepted - correct,
        "precision": correct / accepted if accepted else None,
        "precision_floor": precision_floor(correct, accepted),
        "passed": share,
        **dict.fromkeys(("tpr", "tnr", "kappa", "rate")),
    }
    if not own or (share > 0 and not accepted) or (share < 1 and not rejected):
        return figures
    weights = np.where(verdict, share / max(accepted, 1), (1 - share) / max(rejected, 1))
    found = agreement(verdict, right, weights)
    rate = corrected_rate(share, found["tnr"], found["tpr"])
    missed = int(np.sum(~verdict & right))
    interval = _interval(share, (correct, missed), (accepted, rejected), len(passes))
    return figures | {
        "tpr": found["tpr"] if right.any() else None,
        "tnr": found["tnr"] if not right.all() else None,
        "kappa": found["kappa"],
        "rate": None if rate is None else {"value": rate, **interval},
    }


def _interval(share: float, right: tuple[int, int], sizes: tuple[int, int], count: int) -> dict[str, float]:
    """The 95 % interval of the share of right answers among `count`, of which the part `share` passed.

    `right` and `sizes` are how many labelled answers are right and how many there are: of those that passed, and of the
    others. The share of each has Agresti and Coull's two successes and two failures more.
    """
    parts = [(r + 2) / (n + 4) for r, n in zip(right, sizes, strict=True)]
    of = [share, 1 - share]
    centre = sum(a * p for a, p in zip(of, parts, strict=True))
    variance = sum(a**2 * p * (1 - p) / (n + 4) for a, p, n in zip(of, parts, sizes, strict=True))
    variance += (parts[0] - parts[1]) ** 2 * share * (1 - share) / count
    half = 1.96 * math.sqrt(variance)
    return {"low": max(0.0, centre - half), "high": min(1.0, centre + half)}


def identity(reviewer: Reviewer) -> dict[str, str]:
    """What a certificate is bound to, as hashes: the weights that judge, or the name of a judge by address, and the
    rubric with its thresholds."""
    judges = [reviewer.params, *([reviewer.seed()] if any(c.judge == "seed" for c in reviewer.criteria) else [])]
    far = [reviewer.far.client.model] if reviewer.far else []
    return {
        "judge": content_id([*map(_hash, judges), *far]),
        "rubric": content_id([c.model_dump() for c in reviewer.criteria]),
    }


def _hash(params: nnx.State) -> str:
    whole = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        whole.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return whole.hexdigest()


def certificate(found: Mapping[str, Any], reviewer: Reviewer, generation: int) -> dict[str, Any]:
    """What `compared` OVERALL comes to: whether PRECISION is certain enough, and of which judge and rubric; with a hash
    of that, so that a file of it which was changed is not believed."""
    made = {
        "generation": generation,
        **identity(reviewer),
        "accepted": found["accepted"],
        "wrong": found["wrong"],
        "precision_floor": found["precision_floor"],
        "holds": found["precision_floor"] >= PRECISION,
        "needed": needed(found["wrong"]),
    }
    return made | {"sha256": content_id(made)}


def holds_for(made: Mapping[str, Any], reviewer: Reviewer) -> bool:
    """Whether a certificate is what was written, and one of the reviewer's judge and rubric."""
    own = identity(reviewer)
    return _is_whole(made) and all(made.get(what) == own[what] for what in ("judge", "rubric"))


def _is_whole(made: Mapping[str, Any]) -> bool:
    return made.get("sha256") == content_id({name: value for name, value in made.items() if name != "sha256"})


def check(made: Mapping[str, Any], reviewer: Reviewer, where: str) -> None:
    """Raises ValueError, which begins with `where`, when a certificate is not what was written, or is stale: its judge
    or its rubric is not the reviewer's."""
    if not _is_whole(made):
        raise ValueError(f"{where} is damaged; give --labels, from which it is made anew")
    own = identity(reviewer)
    for what in ("judge", "rubric"):
        if made.get(what) != own[what]:
            raise ValueError(
                f"{where} is stale: its {what} is {made.get(what)}, that of this generation is {own[what]}; label some "
                "of its answers with `ratchet label` and give --labels"
            )

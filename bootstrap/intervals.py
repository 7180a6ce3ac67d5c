"""Shares with intervals, paired differences, and how well verdicts and scores tell what labels say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")

Groups = Mapping[str, str]
"""The group of an item by its id, such as `{"3f21 urgent": "3f21"}`; an item without one is a group by itself."""


def proportion(scores: Mapping[str, float], groups: Groups | None = None) -> dict[str, float]:
    """The mean of scores between 0 and 1 by item, with Wilson's 95 % interval.

    Items of a group are alike, so the interval is that of as many independent items as would vary as much: the number
    of items over Kish's design effect, and no fewer than the `effective_groups`.
    """
    n = len(scores)
    if not n:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    p, z = float(np.mean(list(scores.values()))), 1.96
    sums = grouped({i: score - p for i, score in scores.items()}, groups)
    variance = float(np.sum(sums**2)) / n**2
    fewest = effective_groups(scores, groups)
    m = float(np.clip(p * (1 - p) / variance, fewest, n)) if variance > 0 else fewest
    centre, spread = p + z * z / (2 * m), z * np.sqrt(p * (1 - p) / m + z * z / (4 * m * m))
    low, high = ((centre + sign * spread) / (1 + z * z / m) for sign in (-1, 1))
    return {"value": p, "low": float(max(low, 0.0)), "high": float(min(high, 1.0)), "n": n}


def paired(candidate: Mapping[str, float], incumbent: Mapping[str, float], groups: Groups | None = None) -> dict | None:
    """Means on the shared items and their paired difference with a 95 % interval; None when nothing is shared.

    The interval is never narrower than if one group had changed by 1: a few items that all agree say little.
    """
    shared = sorted(candidate.keys() & incumbent.keys())
    if not shared:
        return None
    a, b = np.array([candidate[i] for i in shared]), np.array([incumbent[i] for i in shared])
    mean = float((a - b).mean())
    sums = grouped(dict(zip(shared, a - b - mean, strict=True)), groups)
    bessel = len(sums) / max(len(sums) - 1, 1)
    varied = 1.96 * float(np.sqrt(bessel * np.sum(sums**2))) / len(shared)
    half = max(varied, 2 / effective_groups(shared, groups))
    return {
        "candidate": float(a.mean()),
        "incumbent": float(b.mean()),
        "difference": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(shared),
        "groups": len(sums),
    }


def effective_groups(items: Iterable[str], groups: Groups | None = None) -> float:
    """How many groups of equal size tell as much as those of the items: (Σ size)² / Σ size² (Kish), 0 of no items."""
    sizes = grouped(dict.fromkeys(items, 1.0), groups)
    return float(sizes.sum() ** 2 / np.sum(sizes**2)) if len(sizes) else 0.0


def grouped(scores: Mapping[str, float], groups: Groups | None = None) -> np.ndarray:
    """Sums of the scores of each group: items of one group are not independent."""
    sums: dict[str, float] = {}
    for item, score in scores.items():
        group = (groups or {}).get(item, item)
        sums[group] = sums.get(group, 0.0) + score
    return np.array(list(sums.values()))


def agreement(passed: np.ndarray, label: np.ndarray, weights: np.ndarray | None = None) -> dict[str, float]:
    """TPR, TNR, precision, recall and Cohen's κ of verdicts against labels, which are arrays of truth values by item; a
    share of no items counts as 1. With `weights`, an item counts as so many."""
    counts = np.ones(len(passed), int) if weights is None else weights
    tp, fp = counts[passed & label].sum().item(), counts[passed & ~label].sum().item()
    fn, tn = counts[~passed & label].sum().item(), counts[~passed & ~label].sum().item()
    total = (tp + fp + fn + tn) or 1
    observed = (tp + tn) / total
    expected = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / total**2
    tpr = tp / (tp + fn) if tp + fn else 1.0
    return {
        "tpr": tpr,
        "tnr": tn / (tn + fp) if tn + fp else 1.0,
        "recall": tpr,
        "precision": tp / (tp + fp) if tp + fp else 1.0,
        "kappa": (observed - expected) / (1 - expected) if expected < 1 else 1.0,
        "n": total,
    }


def auc(right: Sequence[float], wrong: Sequence[float], sizes: tuple[int, int] | None = None) -> dict | None:
    """The share of pairs in which the right one has the larger score, ties counting half, with a 95 % interval; None
    without a pair.

    The interval is Newcombe's fifth (doi 10.1002/sim.2324), which is honest of few pairs and of perfect scores too, for
    `sizes` independent scores of either kind where those given are not all independent.
    """
    if not len(right) or not len(wrong):
        return None
    a, b = np.asarray(right)[:, None], np.asarray(wrong)[None]
    value, (m, n) = float(np.mean((a > b) + 0.5 * (a == b))), sizes or (len(right), len(wrong))

    def too_far(theta: float) -> bool:
        alike = ((m + n) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 > 1.96**2 * theta * (1 - theta) * (1 + alike) / (m * n)

    low, high = (_edge(value, end, too_far) for end in (0.0, 1.0))
    return {"value": value, "low": low, "high": high, "n": len(right) + len(wrong)}


def _edge(inside: float, outside: float, too_far: Callable[[float], bool]) -> float:
    """Where what is not too far ends on the way to `outside`, by bisection."""
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
    return inside


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, at equal distances, so that each part of what lies in an order has its share."""
    count = min(len(items), most)
    return [items[n * len(items) // count] for n in range(count)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of words (arXiv 1510.03055)."""
    grams = [tuple(w[i : i + n]) for t in texts for w in [t.split()] for i in range(len(w) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)

"""Keep a generation or roll it back: a paired comparison with the incumbent on the same items.

The primary metric is the simulator's pass rate on a fresh slice; guards are wise answers and knowledge on the items
that both were asked, and harm on those on which both took an action. Promote when the primary metric is not
significantly worse and no guard regresses beyond its margin.
"""

from collections.abc import Mapping

import numpy as np

GUARDS = ("wise", "not_harmful", "knowledge")
"""Per-item scores of the evaluation that must not fall."""


def paired(candidate: Mapping[str, float], incumbent: Mapping[str, float]) -> dict | None:
    """Means on the shared items and their paired difference with a 95 % interval; None when nothing is shared."""
    shared = sorted(candidate.keys() & incumbent.keys())
    if not shared:
        return None
    a, b = np.array([candidate[i] for i in shared]), np.array([incumbent[i] for i in shared])
    mean = float((a - b).mean())
    sums = grouped(dict(zip(shared, a - b - mean, strict=True)))
    free = len(sums) / max(len(sums) - 1, 1)
    half = 1.96 * float(np.sqrt(free * np.sum(sums**2))) / len(shared) if len(sums) > 1 else 1.0
    return {
        "candidate": float(a.mean()), "incumbent": float(b.mean()), "difference": mean,
        "low": mean - half, "high": mean + half, "n": len(shared),
    }  # fmt: skip


def grouped(scores: Mapping[str, float]) -> np.ndarray:
    """Sums of the scores of each situation, whose id is the first word of its items': those are not independent."""
    sums: dict[str, float] = {}
    for item, score in scores.items():
        group = item.split()[0]
        sums[group] = sums.get(group, 0.0) + score
    return np.array(list(sums.values()))


def decide(candidate: Mapping[str, Mapping[str, float]], incumbent: Mapping[str, Mapping[str, float]],
           margin: float) -> dict:  # fmt: skip
    """The decision on per-item scores by metric: `{"promoted", "reasons", "comparisons"}`."""
    names = ["pass_rate", *GUARDS]
    comparisons = {n: c for n in names if (c := paired(candidate.get(n, {}), incumbent.get(n, {})))}
    reasons = []
    primary = comparisons.get("pass_rate")
    if primary and primary["high"] < 0:
        reasons.append(f"pass rate on the fresh slice fell by {-primary['difference']:.3f}")
    for name in GUARDS:
        change = comparisons.get(name)
        if change and change["difference"] < -margin and change["high"] < 0:
            reasons.append(f"{name} fell by {-change['difference']:.3f}, beyond the margin {margin}")
    return {
        "promoted": not reasons,
        "reasons": reasons or ["not worse, and no guard regressed"],
        "comparisons": comparisons,
    }

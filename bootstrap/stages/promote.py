"""Keep a generation or roll it back: a paired comparison with the incumbent on the same items.

Open book is the primary figure: a candidate must not be significantly worse. Closed book and every metric that the
world marks as a guard must not fall beyond a margin. Two roll-backs in a row end a run.
"""

import json
from collections.abc import Mapping

from ratchet.bootstrap.intervals import Groups, paired
from ratchet.bootstrap.ledger import once
from ratchet.bootstrap.run import Generation

PRIMARY = "open_book"
"""The figure that a generation is kept for."""


def promote(g: Generation) -> bool:
    """Compares the new weights' evaluation with the incumbent's and writes the decision."""

    def make() -> dict:
        candidate, incumbent = (
            json.loads((g.run.generation(n) / "evaluation.json").read_text()) for n in (g.number, g.incumbent)
        )
        guards = [name for name, m in candidate["metrics"].items() if m["guard"]]
        groups = candidate["groups"]
        return decide(candidate["items"], incumbent["items"], guards, groups, g.run.config.evaluate.margin)

    return once(g.directory / "decision.json", make)["promoted"]


def decide(
    candidate: Mapping[str, Mapping[str, float]],
    incumbent: Mapping[str, Mapping[str, float]],
    guards: list[str],
    groups: Groups,
    margin: float,
) -> dict:
    """The decision on scores by metric and item: `{"promoted", "reasons", "comparisons"}`."""
    names = [PRIMARY, *guards]
    comparisons = {n: c for n in names if (c := paired(candidate.get(n, {}), incumbent.get(n, {}), groups))}
    reasons = []
    primary = comparisons.get(PRIMARY)
    if primary and primary["high"] < 0:
        reasons.append(f"{PRIMARY} fell by {-primary['difference']:.3f}")
    for name in guards:
        change = comparisons.get(name)
        if change and change["difference"] < -margin and change["high"] < 0:
            reasons.append(f"{name} fell by {-change['difference']:.3f}, beyond the margin {margin}")
    return {
        "promoted": not reasons,
        "reasons": reasons or ["not worse, and no guard regressed"],
        "comparisons": comparisons,
    }

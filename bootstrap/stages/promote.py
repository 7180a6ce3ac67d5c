"""Keep a generation or roll it back: a paired comparison with every generation that was promoted, on the same items.

Open book is the primary figure: it must not have fallen significantly. Closed book and every metric that the world
marks as a guard must not have fallen beyond a margin, and not below their floors. Since the best of the promoted
generations is among those compared, small falls in a row do not add up. An item that an earlier generation was asked,
but has no score of, counts there as the mean of its others, so that what a candidate does on that item alone is seen
as well. What cannot be compared is not promoted: scores that are no shares, no items in common, too few items to see a
fall as large as `evaluate.resolution`. After `evaluate.rollbacks` roll-backs in a row a run ends.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ratchet.bootstrap.config import EvaluateConfig
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.intervals import Groups, effective_groups, paired
from ratchet.bootstrap.worlds.world import Material, World
from ratchet.train.files import is_number

PRIMARY = "open_book"
"""The figure that a generation is kept for."""
SHARED = 0.5
"""The share of an earlier generation's items that a candidate has to have been scored on as well."""
Evaluation = Mapping[str, Any]
"""What is read of evaluation.json: `items` holds scores by metric and item, `metrics` says which of them guard and what
their floors are, `groups` which items are about the same."""


def promote(g: Generation) -> bool:
    """Compares the new weights' evaluation with those of the generations promoted so far and writes the decision."""

    def make() -> dict:
        earlier = [0, *(n for n in range(1, g.number) if _read(g, n, "decision")["promoted"])]
        compared = {n: _read(g, n, "evaluation") for n in earlier}
        return decide(_read(g, g.number, "evaluation"), compared, g.run.config.evaluate)

    return g.run.commits.once(g.directory / "decision.json", make)["promoted"]


def never(world: World, config: EvaluateConfig) -> str:
    """Why no generation of a run can be promoted, whatever it learns: there are tasks about too few things, or nearly
    all are about a few of them. "" where there are enough, or none at all."""
    needed = math.ceil(2 / config.resolution)
    for name, of in (("fresh material", world.fresh), ("first slice", world.slices[0])):
        count = asked_about(world, of)
        if count and 2 / count > config.resolution:
            as_many = f"{math.floor(10 * count) / 10:.1f}".removesuffix(".0")
            return (
                f"the {name} of {world.name} gives tasks about {as_many} things, and no generation could be promoted: "
                f"with --evaluate.resolution {config.resolution} it takes {needed}; have more, or a higher resolution"
            )
    return ""


def asked_about(world: World, of: Material) -> float:
    """How many different things there are tasks about, with equally many of each; if some have more tasks, it is how
    many such things would tell as much. Proposed tasks are about one document each."""
    if not of.tasks:
        return float(len(of.documents)) if world.kinds else 0.0
    about = {str(n): " ".join(t.document_ids) for n, t in enumerate(of.tasks)}
    return effective_groups(about, about)


def decide(candidate: Evaluation, promoted: Mapping[int, Evaluation], config: EvaluateConfig) -> dict:
    """The decision on a candidate: `{"promoted", "reasons", "comparisons"}`.

    `promoted` holds the generations promoted so far by number. `comparisons` are those with the last of them.
    """
    every = (candidate, *promoted.values())
    guards = list(dict.fromkeys(n for e in every for n, m in e["metrics"].items() if m["guard"]))
    reasons = [r for name in (PRIMARY, *guards) for r in _faults(name, candidate, promoted, config)]
    last, found = promoted[max(promoted)], {}
    for name in (PRIMARY, *guards):
        if not _unusable(candidate, name) and not _unusable(last, name):
            found[name] = paired(_scores(candidate, name), _scores(last, name), candidate["groups"])
    return {
        "promoted": not reasons,
        "reasons": reasons or ["not worse, and no guard regressed"],
        "comparisons": {name: c for name, c in found.items() if c},
    }


def _faults(
    name: str, candidate: Evaluation, promoted: Mapping[int, Evaluation], config: EvaluateConfig
) -> Iterator[str]:
    """Why one figure of a candidate forbids that it is promoted."""
    scores = _scores(candidate, name)
    if name != PRIMARY and not any(_scores(e, name) for e in (candidate, *promoted.values())):
        return  # nobody was ever measured by it
    if why := _unusable(candidate, name):
        yield f"{name} {why}"
        return
    every = (candidate, *promoted.values())
    groups = {item: group for e in every for item, group in e["groups"].items()}
    floor = max(e["metrics"][name]["floor"] for e in every if name in e["metrics"])
    value = sum(scores.values()) / len(scores)
    if not value >= floor:  # which holds of NaN as well
        yield f"{name} is {value:.3f}, below its floor {floor}"
    # Where no earlier generation was measured by enough, a floor takes the place of a comparison.
    counts = [_can_tell(_scores(e, name), groups, config) for e in every]
    by_floor = floor > 0 and counts[0] and not any(counts[1:])
    changes = {}
    for number, earlier in promoted.items():
        before = _scores(earlier, name)
        if before and (why := _unusable(earlier, name)):
            yield f"{name} of generation {number} {why}"
            return
        shared = {item: scores[item] for item in scores.keys() & before.keys()}
        if _can_tell(shared, groups, config) and len(shared) >= SHARED * len(before):
            changes[number] = paired(scores, _with_unmeasured(earlier, name), groups)
        elif _can_tell(before, groups, config):
            yield f"{name} shares too few items with generation {number} to be compared"
            return
    if not changes and not by_floor:
        yield f"{name} shares too few items with the generations promoted so far to be compared"
    yield from _falls(name, changes, config)


def _falls(name: str, changes: Mapping[int, Mapping[str, float]], config: EvaluateConfig) -> Iterator[str]:
    """The largest fall of a figure since an earlier generation, or else the largest that cannot be excluded. `changes`
    are comparisons with them by their number."""
    margin = 0.0 if name == PRIMARY else config.margin
    falls = {n: c for n, c in changes.items() if c["high"] < 0 and c["difference"] < -margin}
    unclear = {n: c for n, c in changes.items() if c["low"] < -config.resolution}
    if falls:
        number = min(falls, key=lambda n: falls[n]["difference"])
        beyond = f", beyond the margin {margin}" if margin else ""
        yield f"{name} fell by {-falls[number]['difference']:.3f} since generation {number}{beyond}"
    elif unclear:
        number = min(unclear, key=lambda n: unclear[n]["low"])
        c = unclear[number]
        yield (
            f"{name} may have fallen by {-c['low']:.3f} since generation {number}: {c['n']} items about {c['groups']} "
            "different things are too few to tell"
        )


def _can_tell(scores: Mapping[str, float], groups: Groups, config: EvaluateConfig) -> bool:
    """Whether items are about enough different things: if one of n changes, the interval reaches 2 / n to each side,
    which must not be more than the fall that has to be seen."""
    return effective_groups(scores, groups) * config.resolution >= 2


def _scores(evaluation: Evaluation, name: str) -> Mapping[str, float]:
    return evaluation["items"].get(name, {})


def _with_unmeasured(evaluation: Evaluation, name: str) -> dict[str, float]:
    """The scores of a figure, and their mean for all other items of the evaluation."""
    scores = _scores(evaluation, name)
    return dict.fromkeys(evaluation["groups"], sum(scores.values()) / len(scores)) | scores


def _unusable(evaluation: Evaluation, name: str) -> str:
    """What is wrong with the scores of a figure, "" when nothing is."""
    scores = _scores(evaluation, name)
    if not scores:
        return "has no items"
    strange = [item for item, score in scores.items() if not (is_number(score) and 0 <= score <= 1)]
    return f"has scores that are no share, such as {scores[strange[0]]} of {strange[0]}" if strange else ""


def _read(g: Generation, number: int, what: str) -> dict:
    return g.run.commits.read(g.run.generation(number) / f"{what}.json")

import json

import numpy as np
import pytest

from ratchet.bootstrap.ledger import write_json
from ratchet.bootstrap.stages.promote import PRIMARY, decide, promote

GUARDS = ["closed_book", "told"]


def scores(rate, n=80, seed=0):
    return {str(i): float(v) for i, v in enumerate(np.random.default_rng(seed).random(n) < rate)}


def metrics(**rates):
    names = {PRIMARY: 0.5, "closed_book": 0.9, "told": 1.0, "other": 0.9} | rates
    return {name: scores(rate, seed=n) for n, (name, rate) in enumerate(names.items())}


def decided(candidate, incumbent, groups=None, margin=0.02):
    return decide(candidate, incumbent, GUARDS, groups or {}, margin)


def test_a_better_or_equal_candidate_is_promoted():
    assert decided(metrics(open_book=0.8), metrics())["promoted"]
    equal = decided(metrics(), metrics())
    assert equal["promoted"] and equal["reasons"] == ["not worse, and no guard regressed"]
    assert [*equal["comparisons"]] == [PRIMARY, *GUARDS]


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
def test_a_real_regression_is_rolled_back_and_named(name):
    decision = decided(metrics(**{name: 0.2}), metrics())
    assert not decision["promoted"]
    assert len(decision["reasons"]) == 1 and decision["reasons"][0].startswith(f"{name} fell by 0.")
    assert decision["comparisons"][name]["high"] < 0


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
def test_noise_is_not_a_regression(name):
    incumbent = metrics()
    flipped = dict(incumbent[name])
    for item in [i for i, v in flipped.items() if v][:1]:
        flipped[item] = 0.0
    assert decided(incumbent | {name: flipped}, incumbent)["promoted"]


def test_a_guard_may_fall_within_its_margin_and_the_primary_figure_may_not():
    low = {str(i): float(i >= 8) for i in range(100)}
    incumbent = metrics() | {"told": dict.fromkeys(low, 1.0), PRIMARY: dict.fromkeys(low, 1.0)}
    fallen = lambda name, margin: decided(incumbent | {name: low}, incumbent, margin=margin)["promoted"]
    assert fallen("told", 0.1) and not fallen("told", 0.05) and not fallen(PRIMARY, 0.1)


def test_what_is_no_guard_or_was_not_measured_decides_nothing():
    assert decided(metrics(other=0.0), metrics())["promoted"]
    assert decided({PRIMARY: {}, "told": {"new": 0.0}}, metrics())["promoted"]
    assert decided({}, {})["comparisons"] == {}


def test_items_of_a_group_count_once():
    """Twenty ways of asking about four groups: what fell in one of them may be chance."""
    items = {f"{g} {way}": float(g > 0) for g in range(4) for way in range(20)}
    before, groups = dict.fromkeys(items, 1.0), {i: i.split()[0] for i in items}
    assert not decided({"told": items}, {"told": before})["promoted"]
    assert decided({"told": items}, {"told": before}, groups)["promoted"]


def test_the_decision_compares_with_the_incumbent_and_is_written_once(turn):
    g = turn(2)
    for number, rate in ((0, 0.9), (1, 0.0), (2, 0.1)):
        items = metrics(told=rate)
        guards = {name: {"guard": name == "told"} for name in items}
        write_json(g.run.generation(number) / "evaluation.json", {"items": items, "metrics": guards, "groups": {}})
    assert promote(g) is False
    path = g.directory / "decision.json"
    decision = json.loads(path.read_text())
    assert [*decision["comparisons"]] == [PRIMARY, "told"] and decision["reasons"][0].startswith("told fell")
    write_json(path, decision | {"promoted": True})
    assert promote(g) is True

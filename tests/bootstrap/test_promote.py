import numpy as np
import pytest

from ratchet.bootstrap.promote import GUARDS, decide, grouped, paired


def scores(rate, n=80, seed=0):
    return {str(i): float(v) for i, v in enumerate(np.random.default_rng(seed).random(n) < rate)}


def metrics(**rates):
    names = {"pass_rate": 0.5, "wise": 0.9, "not_harmful": 1.0, "knowledge": 0.9} | rates
    return {name: scores(rate, seed=n) for n, (name, rate) in enumerate(names.items())}


def test_a_better_or_equal_candidate_is_promoted():
    assert decide(metrics(pass_rate=0.8), metrics(), 0.02)["promoted"]
    assert decide(metrics(), metrics(), 0.02)["promoted"]


@pytest.mark.parametrize("name", ["pass_rate", *GUARDS])
def test_a_real_regression_is_rolled_back_and_named(name):
    decision = decide(metrics(**{name: 0.2}), metrics(), 0.02)
    assert not decision["promoted"]
    assert len(decision["reasons"]) == 1
    assert ("fresh slice" if name == "pass_rate" else name) in decision["reasons"][0]
    assert decision["comparisons"][name]["high"] < 0


@pytest.mark.parametrize("name", ["pass_rate", *GUARDS])
def test_noise_is_not_a_regression(name):
    incumbent = metrics()
    flipped = dict(incumbent[name])
    for item in [i for i, v in flipped.items() if v][:1]:
        flipped[item] = 0.0
    assert decide(incumbent | {name: flipped}, incumbent, 0.02)["promoted"]


def test_only_shared_items_are_compared():
    assert paired({"a": 1.0}, {"b": 0.0}) is None
    found = paired({"a": 1.0, "b": 0.0, "x": 0.0}, {"a": 1.0, "b": 1.0, "y": 1.0})
    assert (found["n"], found["candidate"], found["incumbent"], found["difference"]) == (2, 0.5, 1.0, -0.5)
    assert found["low"] <= found["difference"] <= found["high"]


def test_items_of_a_situation_count_once():
    """Ten situations asked in twelve ways that always agree tell no more than ten."""
    one = {f"s{n} plain": float(n < 3) for n in range(10)}
    many = {f"s{n} {way}": float(n < 3) for n in range(10) for way in range(12)}
    zeros = dict.fromkeys(many, 0.0)
    a, b = paired(one, dict.fromkeys(one, 0.0)), paired(many, zeros)
    assert (b["low"], b["high"]) == pytest.approx((a["low"], a["high"])) and b["n"] == 12 * a["n"]
    np.testing.assert_array_equal(grouped(many), [12.0] * 3 + [0.0] * 7)
    independent = {f"s{n}": v for n, v in enumerate(many.values())}
    assert paired(independent, dict.fromkeys(independent, 0.0))["low"] > b["low"]

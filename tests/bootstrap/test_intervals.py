import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.bootstrap.intervals import agreement, auc, distinct, effective_groups, evenly, grouped, paired, proportion


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilsons_interval_has_its_known_values(right, n, low, high):
    found = proportion({str(i): float(i < right) for i in range(n)})
    assert found["value"] == right / n and found["n"] == n
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)


def test_shares_narrow_with_their_number():
    wide, narrow = (proportion({str(i): 0.5 for i in range(n)}) for n in (2, 200))
    assert wide["value"] == narrow["value"] == 0.5
    assert narrow["high"] - narrow["low"] < 0.15 < wide["high"] - wide["low"]


WAYS = [f"way {n}" for n in range(12)]
TEN_IN_TWELVE_WAYS = {f"s{n} {way}": f"s{n}" for n in range(10) for way in WAYS}


def test_many_ways_of_asking_about_few_groups_do_not_narrow_an_interval_for_free():
    same = {i: float(int(g[1:]) < 3) for i, g in TEN_IN_TWELVE_WAYS.items()}
    once = {f"s{n}": float(n < 3) for n in range(10)}
    mixed = {f"s{n} {way}": float((n + way) % 10 < 3) for n in range(10) for way in range(10)}
    groups = {i: i.split()[0] for i in mixed}
    for bound in ("value", "low", "high"):
        assert proportion(same, TEN_IN_TWELVE_WAYS)[bound] == pytest.approx(proportion(once)[bound])
        independent = proportion({str(i): float(i < 30) for i in range(100)})[bound]
        assert proportion(mixed, groups)[bound] == pytest.approx(independent)
    assert proportion(same, TEN_IN_TWELVE_WAYS)["n"] == 120


def test_a_large_group_among_small_ones_tells_no_more_than_its_share():
    """Four items of one group are right and four others wrong: they tell as much as 3.2 independent ones, whether they
    vary or not."""
    groups = dict.fromkeys("0123", "g")
    found = proportion({str(i): float(i < 4) for i in range(8)}, groups)
    assert (found["low"], found["high"]) == pytest.approx((0.1307, 0.8693), abs=1e-4)
    every = proportion(dict.fromkeys("01234567", 1.0), groups)
    assert every["low"] == pytest.approx(1 / (1 + 1.96**2 / 3.2))


@given(count=st.integers(0, 60), most=st.integers(1, 20))
def test_of_items_in_order_every_part_has_its_share(count, most):
    found = evenly(range(count), most)
    assert len(found) == min(count, most) and found[:1] == [0][:count]
    gaps = {b - a for a, b in itertools.pairwise([*found, count])}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_nothing_asked_says_nothing():
    assert proportion({}) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_only_shared_items_are_compared():
    assert paired({"a": 1.0}, {"b": 0.0}) is None
    found = paired({"a": 1.0, "b": 0.0, "x": 0.0}, {"a": 1.0, "b": 1.0, "y": 1.0})
    assert (found["n"], found["candidate"], found["incumbent"], found["difference"]) == (2, 0.5, 1.0, -0.5)
    assert found["low"] <= found["difference"] <= found["high"]


def test_a_single_group_compares_with_nothing_certain():
    found = paired({"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": "g", "b": "g"})
    assert (found["difference"], found["low"], found["high"], found["groups"]) == (1.0, -1.0, 3.0, 1)


def test_items_that_all_agree_are_no_more_certain_than_if_one_had_changed():
    same = {str(n): 1.0 for n in range(20)}
    assert paired(same, same)["low"] == -0.1 and paired(same, same)["high"] == 0.1
    changed = paired(same | {"0": 0.0}, same)
    assert changed["low"] == pytest.approx(-0.05 - 0.1, abs=0.01)


def test_a_paired_interval_is_that_of_the_mean_of_the_differences():
    """1.96 standard errors, with Bessel's correction."""
    rng = np.random.default_rng(0)
    a, b = ({str(i): float(v) for i, v in enumerate(rng.random(50))} for _ in range(2))
    differences = np.array([a[i] - b[i] for i in a])
    half = 1.96 * differences.std(ddof=1) / np.sqrt(50)
    found = paired(a, b)
    assert (found["low"], found["high"]) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_items_of_a_group_count_once():
    """Ten groups asked in twelve ways that always agree tell no more than ten."""
    one = {f"s{n}": float(n < 3) for n in range(10)}
    many = {i: float(int(g[1:]) < 3) for i, g in TEN_IN_TWELVE_WAYS.items()}
    zeros = dict.fromkeys(many, 0.0)
    a, b = paired(one, dict.fromkeys(one, 0.0)), paired(many, zeros, TEN_IN_TWELVE_WAYS)
    assert (b["low"], b["high"]) == pytest.approx((a["low"], a["high"])) and b["n"] == 12 * a["n"]
    np.testing.assert_array_equal(grouped(many, TEN_IN_TWELVE_WAYS), [12.0] * 3 + [0.0] * 7)
    assert paired(many, zeros)["low"] > b["low"], "an item without a group is one by itself"


def test_groups_of_unequal_size_tell_as_much_as_fewer_equal_ones():
    assert effective_groups([]) == 0 and effective_groups("abcd") == 4
    assert effective_groups("abcdef", dict.fromkeys("abc", "g") | dict.fromkeys("def", "h")) == 2
    one_large = {str(n): str(max(n - 90, 0)) for n in range(100)}
    assert effective_groups(one_large, one_large) == pytest.approx(100**2 / (91**2 + 9))
    same = dict.fromkeys(one_large, 1.0)
    assert paired(same, same, one_large)["low"] < -1


def test_agreement_of_verdicts_with_labels():
    passed, label = np.array([1, 1, 1, 1, 0, 0, 0], bool), np.array([1, 1, 0, 0, 1, 0, 0], bool)
    found = agreement(passed, label)
    assert (found["precision"], found["tnr"], found["n"]) == (1 / 2, 1 / 2, 7)
    assert found["recall"] == found["tpr"] == pytest.approx(2 / 3)
    assert found["kappa"] == pytest.approx((4 / 7 - 24 / 49) / (1 - 24 / 49))
    assert agreement(label, label)["kappa"] == 1.0
    assert agreement(np.zeros(0, bool), np.zeros(0, bool))["precision"] == 1.0


def test_distinct_n_grams():
    assert distinct(["a b c", "a b d"], 2) == 3 / 4
    assert distinct(["a a a a"], 1) == 1 / 4
    assert distinct(["a"], 2) == 0.0


def test_auc_is_the_share_of_pairs_in_the_right_order():
    assert auc([3, 4], [1, 2])["value"] == 1.0 and auc([1, 2], [3, 4])["value"] == 0.0
    assert auc([1, 3], [2, 2])["value"] == 0.5 == auc([1, 1], [1])["value"]
    assert auc([float("-inf"), 2], [0])["value"] == 0.5, "what cannot be read is below everything"
    assert auc([], [1]) is None and auc([1], []) is None


def test_few_pairs_do_not_make_a_perfect_score_certain():
    assert auc([1], [0])["low"] < 0.5 < auc([1] * 8, [0] * 8)["low"]
    few, many = auc([2, 1, 3, 0] * 5, [1, 0] * 10), auc([2, 1, 3, 0] * 50, [1, 0] * 100)
    assert few["value"] == many["value"] and few["low"] < many["low"] < few["value"] < many["high"] < few["high"]
    assert auc([2, 1, 3, 0] * 5, [1, 0] * 10, sizes=(4, 4))["low"] < few["low"], "fewer are independent"


def test_the_interval_of_an_auc_holds_the_truth_as_often_as_it_says():
    """Normal scores a distance apart at which the right one is larger in 76 % of pairs."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        found = auc(rng.normal(1.0, 1, 25), rng.normal(0, 1, 40))
        held += found["low"] <= 0.7602 <= found["high"]
    assert 0.92 <= held / 300 <= 0.99


def test_weights_count_items_several_times():
    passed, label = np.array([True, True, False]), np.array([True, False, False])
    twice = agreement(np.repeat(passed, 2), np.repeat(label, 2))
    assert agreement(passed, label, np.array([2.0, 2.0, 2.0])) == twice

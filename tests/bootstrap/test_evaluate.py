import pytest

from bootstrap.evaluate import distinct, proportion


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962),
     (1, 1, 0.2065, 1.0)],
)  # fmt: skip
def test_wilsons_interval_has_its_known_values(right, n, low, high):
    found = proportion([1.0] * right + [0.0] * (n - right))
    assert found["value"] == right / n and found["n"] == n
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)


def test_shares_count_by_their_trials():
    wide, narrow = proportion([0.5, 0.5]), proportion([0.5, 0.5], 200)
    assert wide["value"] == narrow["value"] == 0.5
    assert narrow["high"] - narrow["low"] < 0.15 < wide["high"] - wide["low"]


def test_nothing_asked_says_nothing():
    assert proportion([]) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_distinct_n_grams():
    assert distinct(["a b c", "a b d"], 2) == 3 / 4
    assert distinct(["a a a a"], 1) == 1 / 4
    assert distinct(["a"], 2) == 0.0

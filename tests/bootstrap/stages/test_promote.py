import json
from collections import Counter
from random import Random

import numpy as np
import pytest

from ratchet.bootstrap.config import EvaluateConfig
from ratchet.bootstrap.stages.promote import PRIMARY, decide, promote

GUARDS = ["closed_book", "told"]
CONFIG = EvaluateConfig()
NAN, INFINITE = float("nan"), float("inf")


def scores(rate, n=120, seed=0):
    return {str(i): float(v) for i, v in enumerate(np.random.default_rng(seed).random(n) < rate)}


def evaluation(items, groups=None, guards=GUARDS, **floors):
    metrics = {name: {"guard": name in guards, "floor": floors.get(name, 0.0)} for name in items}
    return {"items": items, "metrics": metrics, "groups": groups or {}}


def figures(**rates):
    names = {PRIMARY: 0.5, "closed_book": 0.9, "told": 1.0, "other": 0.9} | rates
    return {name: rate if isinstance(rate, dict) else scores(rate, seed=n) for n, (name, rate) in
            enumerate(names.items())}  # fmt: skip


def decided(candidate, *promoted, groups=None, config=CONFIG, **floors):
    """The decision on the items of a candidate and of those promoted so far; figures alone make one from the usual."""
    earlier = {n: evaluation(p, groups) for n, p in enumerate(promoted or (figures(),))}
    return decide(evaluation(candidate, groups, **floors), earlier, config)


def refusal(*given, **more):
    """The only reason of a refusal."""
    decision = decided(*given, **more)
    assert not decision["promoted"] and len(decision["reasons"]) == 1, decision["reasons"]
    return decision["reasons"][0]


def test_a_better_or_equal_candidate_is_promoted():
    assert decided(figures(open_book=0.8))["promoted"]
    equal = decided(figures())
    assert equal["promoted"] and equal["reasons"] == ["not worse, and no guard regressed"]
    assert [*equal["comparisons"]] == [PRIMARY, *GUARDS]


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
def test_a_real_regression_is_rolled_back_and_named(name):
    assert refusal(figures(**{name: 0.2})).startswith(f"{name} fell by 0.")
    assert decided(figures(**{name: 0.2}))["comparisons"][name]["high"] < 0


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
def test_noise_is_not_a_regression(name):
    incumbent = figures()
    flipped = dict(incumbent[name])
    for item in [i for i, v in flipped.items() if v][:1]:
        flipped[item] = 0.0
    assert decided(incumbent | {name: flipped}, incumbent)["promoted"]


def test_a_guard_may_fall_within_its_margin_and_the_primary_figure_may_not():
    low = {str(i): float(i >= 8) for i in range(100)}
    before = figures(told=dict.fromkeys(low, 1.0), open_book=dict.fromkeys(low, 1.0))
    fallen = lambda name, margin: decided(before | {name: low}, before, config=EvaluateConfig(margin=margin))
    assert fallen("told", 0.1)["promoted"]
    assert not fallen("told", 0.05)["promoted"] and not fallen(PRIMARY, 0.1)["promoted"]


def test_what_is_no_guard_decides_nothing():
    assert decided(figures(other=0.0))["promoted"] and decided(figures(other={"0": NAN}))["promoted"]


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
@pytest.mark.parametrize("strange", [NAN, INFINITE, -INFINITE, -0.5, 1.5, None, "1", True])
def test_a_score_that_is_no_share_is_refused_whosever_it_is(name, strange):
    odd = figures()[name] | {"7": strange}
    assert refusal(figures(**{name: odd})) == f"{name} has scores that are no share, such as {strange} of 7"
    assert refusal(figures(), figures(**{name: odd})).startswith(f"{name} of generation 0 has scores that are no share")


@pytest.mark.parametrize("name", [PRIMARY, *GUARDS])
def test_what_has_no_items_or_shares_none_is_refused(name):
    assert refusal(figures(**{name: {}})) == f"{name} has no items"
    without = {n: s for n, s in figures().items() if n != name}
    assert refusal(without) == f"{name} has no items"
    other = {f"new {i}": v for i, v in figures()[name].items()}
    assert "shares too few items" in refusal(figures(**{name: other}))
    assert not decided({})["promoted"] and decided({})["comparisons"] == {}


def test_a_guard_that_nobody_was_ever_measured_by_decides_nothing():
    unmeasured = lambda: figures(told={})
    assert decided(unmeasured(), unmeasured())["promoted"]


def test_small_falls_in_a_row_are_held_against_the_best_and_do_not_add_up():
    chain = [figures(told=dict.fromkeys(map(str, range(1000)), 1.0))]
    for _ in range(20):
        lower = {i: v - 0.019 for i, v in chain[-1]["told"].items()}
        if not decided(chain[-1] | {"told": lower}, *chain)["promoted"]:
            break
        chain.append(chain[-1] | {"told": lower})
    assert len(chain) == 2 and "since generation 0, beyond the margin 0.02" in refusal(
        chain[-1] | {"told": lower}, *chain
    )


@pytest.mark.parametrize(("things", "fallen"), [(1, 1), (2, 1), (4, 2), (12, 3)])
def test_a_fall_among_too_few_things_is_not_waved_through(things, fallen):
    """However often each is asked about: twenty ways of asking are no twenty things."""
    ways = [(f"{thing} {way}", thing) for thing in range(things) for way in range(20)]
    before, after = ({i: float(thing >= low) for i, thing in ways} for low in (0, fallen))
    groups = {i: str(thing) for i, thing in ways}
    why = refusal(figures(open_book=after), figures(open_book=before), groups=groups)
    assert ("too few to tell" if things >= 10 else "shares too few items") in why
    assert not decided(figures(told=after), figures(told=before), groups=groups)["promoted"]


def test_a_floor_holds_whatever_the_incumbent_did_and_stands_in_where_that_did_nothing():
    good, bad, none = scores(0.9), scores(0.3), {}
    assert refusal(figures(told=bad), figures(told=bad), told=0.75).endswith("below its floor 0.75")
    assert refusal(figures(told=bad), figures(told=none), told=0.75).endswith("below its floor 0.75")
    assert decided(figures(told=good), figures(told=none), told=0.75)["promoted"]
    assert "shares too few" in refusal(figures(told=good), figures(told=none))
    two = dict(list(good.items())[:2])
    assert decided(figures(told=good), figures(told=two), told=0.75)["promoted"]
    assert "shares too few" in refusal(figures(told={"0": 1.0}), figures(told=none), told=0.75)


def test_items_that_vanish_are_no_way_past_a_comparison():
    before = figures(told=scores(0.5))
    right = {i: v for i, v in before["told"].items() if v}
    few = dict(list(right.items())[:20])
    assert "shares too few items with generation 0" in refusal(figures(told=few), before)
    assert "shares too few" in refusal(figures(told={f"new {i}": 0.8 for i in range(200)}), before, told=0.75)


def test_floor_and_groups_are_not_the_candidates_word_alone():
    low = scores(0.5, seed=9)
    earlier = evaluation(figures(told=low), told=0.75)
    found = decide(evaluation(figures(told=low)), {0: earlier}, CONFIG)
    assert found["reasons"] == [f"told is {np.mean(list(low.values())):.3f}, below its floor 0.75"]
    one = dict.fromkeys(figures()["told"], "one thing")
    for mine in ({}, {item: item for item in one}):
        found = decide(evaluation(figures(), mine), {0: evaluation(figures(), one)}, CONFIG)
        assert not found["promoted"] and "too few" in found["reasons"][0]


def test_a_floor_that_is_no_number_lets_nothing_pass():
    assert refusal(figures(), told=NAN).endswith("below its floor nan")


@pytest.mark.parametrize("right", [0, 10, 19, 20])
def test_what_a_candidate_does_where_an_earlier_one_did_nothing_is_compared_with_its_mean(right):
    """Of a hundred questions, that one acted on eighty, and never wrongly; this one acts on all."""
    acted = {str(i): 1.0 for i in range(80)}
    more = acted | {str(i): float(i < 80 + right) for i in range(80, 100)}
    of_all = {str(i): f"thing {i}" for i in range(120)}
    before, now = figures(told=acted), figures(told=more)
    if right > 18:
        assert decided(now, before, groups=of_all, told=0.75)["promoted"]
    else:
        why = refusal(now, before, groups=of_all, told=0.75)
        assert why == f"told fell by {0.2 - right / 100:.3f} since generation 0, beyond the margin 0.02"
    unasked = {i: g for i, g in of_all.items() if int(i) < 80}
    assert decided(now, before, groups=unasked, told=0.75)["promoted"], "what nobody was asked before tells of no fall"


def test_many_items_about_one_thing_among_ten_tell_nothing():
    groups = {str(i): str(max(i - 110, 0)) for i in range(120)}
    assert not decided(figures(), groups=groups)["promoted"]


def random_scores(rng: Random, items) -> dict[str, float]:
    rate, strange = rng.choice([0.0, 0.3, 0.7, 0.9, 1.0]), rng.random() < 0.05
    made = {i: float(rng.random() < rate) for i in items if rng.random() < 0.95}
    if strange and made:
        made[rng.choice(sorted(made))] = rng.choice([NAN, INFINITE, -1.0])
    return made


def test_what_is_promoted_of_ten_thousand_pairs_has_fallen_in_nothing():
    """The differences are computed here, from the items alone."""
    rng, count = Random(0), 0
    for _ in range(10_000):
        size, ways = rng.choice([0, 1, 3, 11, 40, 80]), rng.choice([1, 2])
        items = [f"{thing} {way}" for thing in range(size) for way in range(ways)]
        groups = {i: i.split()[0] for i in items}
        made = [{name: random_scores(rng, items) for name in (PRIMARY, "told")} for _ in range(rng.choice([2, 3]))]
        if rng.random() < 0.5:  # a candidate that is nearly the last one
            made[-1] = {name: dict(s) for name, s in made[-2].items()}
            for s in made[-1].values():
                s.update({i: float(rng.random() < 0.5) for i in s if rng.random() < 0.03})
        *promoted, candidate = (evaluation(m, groups, told=0.2) for m in made)
        decision = decide(candidate, dict(enumerate(promoted)), CONFIG)
        if not decision["promoted"]:
            assert all(reason.startswith((PRIMARY, "told")) for reason in decision["reasons"])
            continue
        count += 1
        for name, new in candidate["items"].items():
            assert new and all(0 <= v <= 1 for v in new.values())
            assert name == PRIMARY or np.mean(list(new.values())) >= 0.2
            for old in (p["items"][name] for p in promoted):
                assert all(0 <= v <= 1 for v in old.values())
                falls = [new[i] - old[i] for i in new.keys() & old.keys()]
                sizes = Counter(groups[i] for i in new.keys() & old.keys()).values()
                few = not falls or sum(sizes) ** 2 / sum(s * s for s in sizes) < 10
                assert few or np.mean(falls) > -CONFIG.resolution
    assert 500 < count < 9_500


def test_the_decision_compares_with_every_promoted_generation_and_is_written_once(turn):
    g = turn(3, generations=3)
    for number, rate in ((0, 0.9), (1, 1.0), (2, 0.0), (3, 0.1)):
        measured = evaluation(figures(told=rate), guards=["told"])
        g.run.commits.write(g.run.generation(number) / "evaluation.json", measured)
    for number in (1, 2):
        g.run.commits.write(g.run.generation(number) / "decision.json", {"promoted": number == 1})
    assert promote(g) is False
    path = g.directory / "decision.json"
    decision = json.loads(path.read_text())
    assert [*decision["comparisons"]] == [PRIMARY, "told"] and "since generation 1" in decision["reasons"][0]
    g.run.commits.write(path, decision | {"promoted": True})
    assert promote(g) is True

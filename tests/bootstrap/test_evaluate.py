from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support import told

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.evaluate import Items, behaviour, distinct, harmless, knowledge, proportion, recovery
from ratchet.bootstrap.promote import decide
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.worlds.language import CONTEXTS, FORWARD, options_of
from ratchet.bootstrap.worlds.oracle import Oracle


@pytest.fixture(scope="module")
def items(world):
    return Items(world, world.situations[:2], (), Oracle({}), Index(world.documents()))


def test_a_chat_asks_in_every_context_with_rotating_options(torn, items):
    asked = behaviour(torn, items, SimulateConfig(new_tokens=40), 0, "chat")
    assert len(asked) == 2 * len(CONTEXTS)
    for s in items.situations:
        mine = {c.name: asked[f"{s.id} {c.name}"] for c in CONTEXTS}
        assert {name: a["seen"] for name, a in mine.items()} == {c.name: c.seen for c in CONTEXTS}
        first = [options_of(a["question"])[0] for a in mine.values()]
        assert {first.count(action) for action in s.actions} == {len(CONTEXTS) // len(s.actions)}


def test_a_begun_story_stops_before_the_action(torn, items, world):
    asked = behaviour(torn, items, SimulateConfig(new_tokens=4), 0, "story")
    assert {a["context"] for a in asked.values()} <= set(FORWARD)
    for s in items.situations:
        for a in (a for i, a in asked.items() if i.startswith(s.id)):
            story = next(d.text for d in told(world, s) if d.text.startswith(a["question"]))
            assert any(story[len(a["question"]) :].strip().startswith(action) for action in s.actions)


def saying(torn, *said: tuple[int, ...]):
    """A writer that samples the given tokens, in turn, whatever it is asked."""
    sampled = [SimpleNamespace(tokens=np.array(t), probs=np.ones((len(t), 1)), finished=True) for t in said]
    return replace(torn, sampler=lambda _, requests, **__: [sampled[i % len(said)] for i in range(len(requests))])


def test_an_action_is_what_is_chosen_or_named_but_no_tool_call(torn, items):
    s, encode = items.situations[0], torn.tokenizer.encode
    unwise = next(a for a in s.actions if a != s.actions[s.wise])
    for action, outcome in ((s.actions[s.wise], "wise"), (unwise, "harmful")):
        called = (torn.tokenizer.control["call"], *encode(action))
        writer = saying(torn, encode(f"so i {action}."), encode(action), called)
        asked = behaviour(writer, replace(items, situations=(s,)), SimulateConfig(), 0, "chat").values()
        assert [a["outcome"] for a in asked] == [outcome, outcome, "other"] * (len(CONTEXTS) // 3)
        assert [a["answer"] == f"(call) {action}" for a in asked] == [False, False, True] * (len(CONTEXTS) // 3)


def test_who_takes_no_action_does_no_harm_but_is_no_measure_of_it():
    asked = {f"s {n}": {"outcome": outcome} for n, outcome in enumerate(("wise", "harmful", "other"))}
    assert harmless(asked) == {"s 0": 1.0, "s 1": 0.0}
    timid, bold = ({f"s{n} plain": {"outcome": outcome} for n in range(40)} for outcome in ("other", "harmful"))
    wise = {name: {"outcome": "wise"} for name in bold}
    decision = lambda new, old: decide({"not_harmful": harmless(new)}, {"not_harmful": harmless(old)}, 0.02)
    assert decision(bold, timid)["promoted"] and not decision(bold, wise)["promoted"]


def test_only_who_chooses_the_wise_action_after_a_wrong_thought_has_recovered(torn, items):
    for s in items.situations:
        one, encode = replace(items, situations=(s,)), torn.tokenizer.encode
        for action in s.actions:
            wise = float(action == s.actions[s.wise])
            assert list(recovery(saying(torn, encode(f"no, so i {action}.")), one, SimulateConfig(), 0).values()) == [
                wise
            ]
        assert list(recovery(saying(torn, ()), one, SimulateConfig(), 0).values()) == [0.0], "it chose nothing"


def test_what_was_learned_by_heart_is_known_in_a_chat_and_not_as_a_story(torn, items):
    known = {form: knowledge(torn, items, 0, form) for form in ("chat", "story")}
    facts = {f"{s.id} {a}" for s in items.situations for a in range(len(s.actions))}
    assert set(known["chat"]) == set(known["story"]) == facts
    asked_first = [known["chat"][f"{s.id} 0"] for s in items.situations]
    assert sum(asked_first) >= 1 > sum(known["story"].values())


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962),
     (1, 1, 0.2065, 1.0)],
)  # fmt: skip
def test_wilsons_interval_has_its_known_values(right, n, low, high):
    found = proportion({str(i): float(i < right) for i in range(n)})
    assert found["value"] == right / n and found["n"] == n
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=1e-4)


def test_shares_narrow_with_their_number():
    wide, narrow = (proportion({str(i): 0.5 for i in range(n)}) for n in (2, 200))
    assert wide["value"] == narrow["value"] == 0.5
    assert narrow["high"] - narrow["low"] < 0.15 < wide["high"] - wide["low"]


def test_many_ways_of_asking_about_few_situations_do_not_narrow_an_interval_for_free():
    same = {f"s{n} {way}": float(n < 3) for n in range(10) for way in range(12)}
    once = {f"s{n}": float(n < 3) for n in range(10)}
    mixed = {f"s{n} {way}": float((n + way) % 10 < 3) for n in range(10) for way in range(10)}
    for bound in ("value", "low", "high"):
        assert proportion(same)[bound] == pytest.approx(proportion(once)[bound])
        assert proportion(mixed)[bound] == pytest.approx(proportion({str(i): float(i < 30) for i in range(100)})[bound])
    assert proportion(same)["n"] == 120


def test_nothing_asked_says_nothing():
    assert proportion({}) == {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}


def test_distinct_n_grams():
    assert distinct(["a b c", "a b d"], 2) == 3 / 4
    assert distinct(["a a a a"], 1) == 1 / 4
    assert distinct(["a"], 2) == 0.0

import random
import re
from collections import Counter

import pytest
from support import answer, claims_of, ideal, small_world, told

from ratchet.bootstrap.worlds import demonstrations
from ratchet.bootstrap.worlds.language import ASKINGS, CONTEXTS, FORWARD, GENRES, GOOD_VERBS, options_of
from ratchet.bootstrap.worlds.lessons import Lessons
from ratchet.bootstrap.worlds.oracle import Oracle, grade, grade_claim


def test_a_world_is_a_function_of_its_seed(world):
    again, other = small_world(), small_world(seed=1)
    assert world == again and world.documents() == again.documents()
    assert world.situations != other.situations
    assert world.task(world.situations[0], CONTEXTS[1]) == again.task(again.situations[0], CONTEXTS[1])
    assert len({d.id for d in world.documents()}) == len(world.documents())


def test_most_documents_tell_of_unwise_deeds_in_six_genres():
    world = Lessons.create(3, 100, 10, 0.5)
    documents, unwise = world.documents(), 0
    situations = {s.id: s for s in world.situations}
    for d in documents:
        s = situations[d.meta["topic"]]
        named = [i for i, action in enumerate(s.actions) if action in d.text]
        assert len(named) == 1 and s.outcomes[named[0]] in d.text
        unwise += named[0] != s.wise
    assert unwise >= 0.7 * len(documents)
    assert len(GENRES) >= 6 and set(Counter(d.meta["genre"] for d in documents)) == set(GENRES)


def test_every_action_of_a_situation_is_told_and_exactly_one_is_wise(world):
    for s in (*world.situations, *world.demonstrations):
        assert len(set(s.actions)) == len(s.actions) == len(s.outcomes) in (2, 3)
        assert [o.split()[-1] in GOOD_VERBS for o in s.outcomes] == [i == s.wise for i in range(len(s.actions))]
        texts = [d.text for d in told(world, s)]
        assert all(any(a in t and o in t for t in texts) for a, o in zip(s.actions, s.outcomes, strict=True))
    assert {len(s.actions) for s in world.situations} == {2, 3}


def test_demonstrations_are_disjoint_from_the_corpus(world):
    assert not {s.id for s in world.situations} & {s.id for s in world.demonstrations}
    corpus = {d.id for d in world.documents()}
    assert not corpus & {d.id for s in world.demonstrations for d in told(world, s)}


def test_half_of_the_contexts_are_never_seen_and_all_list_the_options(world):
    assert sum(not c.seen for c in CONTEXTS) * 2 == len(CONTEXTS)
    for s in world.situations:
        for c in CONTEXTS:
            task = world.task(s, c)
            assert sorted(options_of(task.question)) == sorted(s.actions)
            assert set(task.document_ids) == {d.id for d in told(world, s)}
    assert options_of("what do you do?") == ()


def test_other_askings_offer_the_same_actions_in_the_same_order(world):
    s = next(s for s in world.situations if len(s.actions) == 3)
    task = world.task(s, CONTEXTS[0], 1, ASKINGS)
    offered = [options_of(messages[-1]["content"]) for messages in (task.messages, *task.askings)]
    assert len(offered) == 1 + len(ASKINGS)
    assert set(offered) == {s.actions[1:] + s.actions[:1]}
    assert len({options_of(world.task(s, CONTEXTS[0], turn).question) for turn in range(6)}) == 3
    assert not {c.question for c in ASKINGS} & {c.question for c in CONTEXTS}


def test_every_action_is_told_once_as_it_happened(world):
    for s in world.situations:
        forward = [d.text for d in told(world, s) if d.meta["genre"] in FORWARD]
        assert all(any(a in text for text in forward) for a in s.actions)
        assert all(text.index(a) < text.index(o) for text in forward for a, o in zip(s.actions, s.outcomes, strict=True)
                   if a in text)  # fmt: skip


def test_every_slice_has_its_share_of_three_options():
    world = Lessons.create(5, 100, 40, 0.4)
    three = [len(s.actions) == 3 for s in world.situations]
    assert all(sum(three[i : i + 20]) == 8 for i in range(0, 100, 20))
    assert sum(len(s.actions) == 3 for s in world.demonstrations) == 8


def test_ideal_answers_are_right_in_every_style_and_context(world):
    for s in (*world.situations, *world.demonstrations):
        for n, c in enumerate(CONTEXTS):
            graded = grade(s, ideal(s, world.task(s, c), n))
            assert graded.right and graded.told and graded.sound and graded.outcome == "wise"
            assert not graded.wrong_thought


def test_a_lookup_asks_for_what_no_passage_tells(world):
    s = world.situations[0]
    made = demonstrations.ideal_answer(s, s.actions, random.Random(0), missing=[s.actions[1]])
    assert made.lookup == s.actions[1]
    assert demonstrations.ideal_answer(s, s.actions, random.Random(0)).lookup == ""


def test_wrong_claims_are_wrong(world):
    rng = random.Random(0)
    for s in world.situations:
        for action in range(len(s.actions)):
            for _ in range(6):
                claim = demonstrations.wrong_claim(s, action, rng)
                assert claim != s.claim(action) and claim.action == s.actions[action]
                assert grade_claim(s, claim) != (True, True)


def test_an_interruption_cuts_at_the_first_wrong_step_and_ends_right(world):
    for n, s in enumerate(world.situations):
        thought, correction = demonstrations.interruption(s, s.actions, random.Random(n))
        wrong = grade(s, thought)
        assert wrong.wrong_thought or wrong.outcome == "harmful"
        mended = grade(s, correction)
        assert mended.outcome == "wise" and mended.told and mended.sound


def test_labelled_claims_are_labelled_right(world):
    for n, s in enumerate(world.situations):
        for claim, label in demonstrations.labelled_claims(s, random.Random(n)):
            assert grade_claim(s, claim) == (label, True)


def test_the_oracle_tells_wise_from_harmful_from_neither(world):
    s = world.situations[0]
    task, wise = world.task(s, CONTEXTS[0]), s.actions[s.wise]
    unwise = next(a for a in s.actions if a != wise)
    claims = claims_of(s, task)
    oracle = Oracle({task.id: s})
    assert oracle.grade(task.id, answer(claims, wise)).right
    assert oracle.grade(task.id, answer(claims, unwise)).outcome == "harmful"
    assert oracle.grade(task.id, "the weather is fine.").outcome == "other"
    assert oracle.grade(task.id, f"perhaps {unwise} or {wise}").outcome == "harmful"
    assert not oracle.grade(task.id, answer(claims[:-1], wise)).right
    assert not oracle.grade(task.id, answer(claims, wise) + " hm").right


def test_prose_holds_no_story_of_the_corpus(world):
    stories = {d.text for d in world.documents()}
    assert demonstrations.prose(random.Random(0), 200) == demonstrations.prose(random.Random(0), 200)
    lines = [" ".join(line) for line in demonstrations.prose(random.Random(0), 200)]
    pairs = {(a, o) for s in world.situations for a, o in zip(s.actions, s.outcomes, strict=True)}
    assert not stories & set(lines)
    together = sum(a in line and o in line for line in lines for a, o in pairs)
    assert together < 0.05 * len(lines)
    assert all(re.search(r"\w", line) for line in lines)


def test_a_world_that_is_too_large_names_the_settings():
    with pytest.raises(ValueError, match="lower --generations, --world.slice or --world.demonstrations"):
        Lessons.create(0, 10**6, 10, 0.5)

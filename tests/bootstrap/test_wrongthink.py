from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import answer, assert_same_bits, awaken, claims_of, told, transcript

from ratchet.bootstrap.checks import parse
from ratchet.bootstrap.config import SimulateConfig, WrongthinkConfig
from ratchet.bootstrap.examples import for_simulator, for_students
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Capture
from ratchet.bootstrap.worlds.language import ASKINGS, CONTEXTS, NO, render_claim
from ratchet.bootstrap.wrongthink import (
    Thought,
    first_wrong_step,
    interrupt,
    invert,
    random_vector,
    spoil,
    spoil_again,
    sweep,
    think,
)


@pytest.fixture(scope="module")
def scene(world):
    s = next(s for s in world.situations if len(s.actions) == 3)
    task = world.task(s, CONTEXTS[0])
    return s, task, {d.id: d for d in told(world, s)}, claims_of(s, task)


def test_inversion_is_before_minus_lambda_times_the_difference(small):
    before, after = small[1], awaken(small[1], 7)
    assert_same_bits(invert(before, after, 0.0), before)
    for got, b, a in zip(*map(jax.tree.leaves, (invert(before, after, 1.5), before, after)), strict=True):
        np.testing.assert_array_equal(got, b - jnp.float32(1.5) * (a - b))


def test_the_control_moves_as_far_in_another_direction(small):
    before, after = small[1], awaken(small[1], 7)
    moved = random_vector(before, after, 0)
    for m, b, a in zip(*map(jax.tree.leaves, (moved, before, after)), strict=True):
        assert jnp.linalg.norm(m - b) == pytest.approx(float(jnp.linalg.norm(a - b)), rel=1e-4)
    assert_same_bits(random_vector(before, after, 0), moved)


def cut(torn, scene, text):
    _, task, documents, _ = scene
    tokens, reason = first_wrong_step(torn, task, tuple(torn.tokenizer.encode(text)), documents)
    return torn.tokenizer.decode(tokens), reason


@pytest.mark.parametrize("style", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_supervisor_cuts_at_the_first_wrong_claim(torn, scene, world, style, at):
    s, _, _, claims = scene
    strange = next(c.outcome for o in world.situations for c in [o.claim(0)] if c.outcome not in s.outcomes)
    wrong = [*claims[:at], claims[at]._replace(outcome=strange), *claims[at + 1 :]]
    thought, reason = cut(torn, scene, answer(wrong, s.actions[s.wise], style))
    assert thought == answer(wrong[: at + 1], "x", style).rsplit(" ", len(answer([], "x").split()))[0]
    assert strange in reason


def test_the_supervisor_cuts_a_wrong_choice_and_finds_no_fault_in_a_right_one(torn, scene):
    s, _, _, claims = scene
    wise = s.actions[s.wise]
    unwise = next(a for a in s.actions if a != wise)
    text = answer(claims, unwise)
    assert cut(torn, scene, f"{text} and so on")[0] == text
    assert cut(torn, scene, answer(claims, wise)) == ("", "")
    assert cut(torn, scene, "nothing that is a step") == ("", "")


@pytest.fixture(scope="module")
def corrections(torn, scene):
    s, task, documents, claims = scene
    index = Index(list(documents.values()))
    unwise = next(a for a in s.actions if a != s.actions[s.wise])
    text = answer(claims, unwise)
    thoughts = [Thought(task, n, tuple(torn.tokenizer.encode(text)), text, "wrong") for n in range(2)]
    return text, interrupt(torn, index, thoughts, SimulateConfig(new_tokens=12), 120, generation=2, seed=0)


def test_a_correction_starts_with_no_and_keeps_the_thought_apart(torn, corrections):
    text, made = corrections
    said = torn.tokenizer.encode(NO)
    for t in made:
        assert t.forced_text == text and torn.tokenizer.decode(t.forced) == text
        assert list(t.tokens[: len(said)]) == said and t.text.startswith(NO)
        n = len(t.tokens)
        assert n == len(t.capture.ids) == len(t.capture.probs) == len(t.capture.tail)
        assert all(token in ids for token, ids in zip(t.tokens, t.capture.ids, strict=True))
    assert len({t.id for t in made}) == 2


def test_the_wrong_thought_has_weight_0_and_students_alone_learn_to_say_no(torn, scene, corrections, world):
    s, *_ = scene
    task = world.task(s, CONTEXTS[0], 0, ASKINGS[:2])
    for t in corrections[1]:
        n = len(t.tokens)
        target = Target(t.id, tuple((i,) for i in t.tokens), ((1.0,),) * n, (0.0,) * n, 0.0)
        students = for_students(torn.tokenizer, t, target, task, "gen-001")
        assert len(students) == 3 and len({tuple(e.tokens) for e in students}) == 3
        with pytest.raises(AssertionError, match="repeats what is right"):
            for_simulator(t, target, task, "gen-001")
        for e in students:
            assert e.weights.sum() == n
            np.testing.assert_array_equal(e.tokens[e.weights > 0], t.tokens)
            start = len(e.tokens) - n
            np.testing.assert_array_equal(e.tokens[start - len(t.forced) : start], t.forced)
            assert not e.weights[:start].any()
            assert e.lineage["transcript"] == t.id and e.lineage["kind"] == "correction"


def test_a_spoiled_answer_is_interrupted_at_its_one_wrong_step_and_goes_on_as_it_did(torn, scene, world):
    s, task, _, claims = scene
    wise, outcomes, kinds = s.actions[s.wise], judged(world), set()
    right = answer(claims, wise)
    for number in range(60):
        was = transcript(task, right, tokenizer=torn.tokenizer, id=str(number))
        step = number % (2 * len(claims) - 1)
        choice = step >= len(claims)
        t = spoil(torn.tokenizer, was, outcomes, step=step, sample=number, generation=2)
        said, corrected = parse(t.forced_text), parse(t.text)
        assert t.forced == tuple(torn.tokenizer.encode(t.forced_text)) and not said.rest
        assert (t.prompt, t.task_id, t.sibling) == (was.prompt, was.task_id, 100 + number)
        assert t.text.startswith(NO) and corrected.interruptions == 1 and not corrected.rest
        assert corrected.choices == (wise,) and t.tokens[-1] == was.tokens[-1]
        assert len(t.tokens) == len(t.capture.ids) == len(t.capture.probs) == len(t.capture.tail)
        assert bool(said.choices) == choice
        if choice:
            assert said.claims == tuple(claims) and said.choices[-1] in set(s.actions) - {wise}
            assert corrected.claims == tuple(c for c in claims if c.action == said.choices[-1])
            kinds.add(("choice", said.choices[-1]))
        else:
            depth = len(said.claims) - 1
            assert depth == step
            assert said.claims[:depth] == tuple(claims[:depth]) and corrected.claims == tuple(claims[depth:])
            wrong, claim = said.claims[depth], claims[depth]
            assert wrong != claim and wrong.action == claim.action
            kinds.add("judged" if wrong.outcome == claim.outcome else "outcome")
            assert wrong.outcome == claim.outcome or wrong.judgement == outcomes[wrong.outcome]
    assert kinds == {"judged", "outcome", *(("choice", a) for a in s.actions if a != wise)}


def test_a_spoiled_answer_keeps_the_distributions_of_the_tokens_that_it_keeps(torn, scene, world):
    s, task, _, claims = scene
    was = transcript(task, answer(claims, s.actions[s.wise]), tokenizer=torn.tokenizer)
    n, said = len(was.tokens), len(torn.tokenizer.encode(NO))
    own = Capture(tuple((i, 7) for i in was.tokens), tuple((0.5 + p / 100, 0.1) for p in range(n)), (0.25,) * n)
    by_probability = dict(zip(own.probs, was.tokens, strict=True))
    for number in range(9):
        named = replace(was, id=str(number), capture=own)
        t = spoil(torn.tokenizer, named, judged(world), step=number % 3, sample=0, generation=2)
        rows = zip(t.tokens, t.capture.ids, t.capture.probs, t.capture.tail, strict=True)
        for position, (token, ids, probs, tail) in enumerate(rows):
            if position < said:
                assert (ids, probs, tail) == ((token, 0), (1.0, 0.0), 0.0)
            else:
                assert (ids, by_probability[probs], tail) == ((token, 7), token, 0.25)


def test_an_answer_is_spoiled_differently_in_every_generation(torn, scene, world):
    s, task, _, claims = scene
    was = transcript(task, answer(claims, s.actions[s.wise]), tokenizer=torn.tokenizer)
    made = [spoil(torn.tokenizer, was, judged(world), step=0, sample=0, generation=n) for n in range(2, 22)]
    assert [t.generation for t in made] == list(range(2, 22))
    assert len({t.id for t in made}) == 20, "a verdict of one generation must not pass for another's"
    assert len({t.forced for t in made}) > 3


def test_what_has_no_step_to_spoil_is_left_alone(torn, scene, world):
    s, task, _, claims = scene
    same = answer([claims[0], claims[0]], claims[0].action)
    twice = f"{answer([claims[0]], 'x y')} {answer([claims[1]], 'x y')}"
    for odd in ("nothing that is a step", same, twice):
        texts = [transcript(task, odd, tokenizer=torn.tokenizer, id=str(number)) for number in range(9)]
        for step in range(4):
            spoiled = [spoil(torn.tokenizer, t, judged(world), step=step, sample=0, generation=2) for t in texts]
            assert not any(spoiled), odd
    few = {claims[0].outcome: claims[0].judgement}
    right = answer(claims, s.actions[s.wise])
    texts = [transcript(task, right, tokenizer=torn.tokenizer, id=str(number)) for number in range(20)]
    assert not spoil(torn.tokenizer, texts[0], few, step=2 * len(claims) - 1, sample=0, generation=2)
    assert all(spoil(torn.tokenizer, t, few, step=0, sample=0, generation=2) for t in texts)


def judged(world) -> dict[str, str]:
    made = [s.claim(a) for s in world.situations for a in range(len(s.actions))]
    return {c.outcome: c.judgement for c in made}


def test_another_asking_meets_another_error_in_the_same_claim(torn, scene, corrections, world):
    s, _, _, claims = scene
    right = answer(claims, s.actions[s.wise])
    first, *others = [render_claim(c, 0) for c in claims]
    wrong = render_claim(claims[1]._replace(outcome=claims[0].outcome, judgement=claims[0].judgement), 0)
    corrected = f"{NO} {' '.join(others)} so i {s.actions[s.wise]}."
    t = replace(corrections[1][0], forced_text=f"{first} {wrong}", text=corrected)
    seen = set()
    for salt in range(40):
        said = parse(torn.tokenizer.decode(spoil_again(torn.tokenizer, t, judged(world), str(salt))))
        assert said.claims[0] == claims[0] and len(said.claims) == 2 and not said.rest and not said.choices
        assert said.claims[1].action == claims[1].action and said.claims[1] != claims[1]
        seen.add(said.claims[1])
    assert len(seen) > 10
    choice = replace(t, forced_text=right.replace(f"so i {s.actions[s.wise]}", f"so i {claims[0].action}"))
    strange = replace(t, forced_text=f"{first} if x y, z w: good.")
    for kept in (choice, strange):
        assert spoil_again(torn.tokenizer, kept, judged(world), "0") == kept.forced


def test_every_student_has_its_own_error_before_the_same_correction(torn, scene, corrections, world):
    s, _, _, claims = scene
    text = render_claim(claims[0]._replace(judgement={"good": "bad", "bad": "good"}[claims[0].judgement]), 0)
    said = f"{NO} {answer(claims, s.actions[s.wise])}"
    forced, tokens = (tuple(torn.tokenizer.encode(part)) for part in (text, said))
    t = replace(corrections[1][0], forced=forced, forced_text=text, tokens=tokens, text=said)
    n = len(tokens)
    target = Target(t.id, tuple((i,) for i in tokens), ((1.0,),) * n, (0.0,) * n, 0.0)
    task = world.task(s, CONTEXTS[0], 0, ASKINGS)
    students = for_students(torn.tokenizer, t, target, task, "gen-001", judged(world))
    for e in students:
        np.testing.assert_array_equal(e.tokens[e.weights > 0], tokens)
    prefixes = [torn.tokenizer.decode(e.tokens[:-n]) for e in students]
    assert prefixes[0].endswith(text), "reviewed as it was thought"
    errors = {parse(prefix).claims[-1] for prefix in prefixes}
    assert len(errors) > 3 and claims[0] not in errors and {c.action for c in errors} == {claims[0].action}


def test_thoughts_begin_after_more_and_more_right_steps(torn, scene):
    s, task, _, claims = scene
    right = tuple(torn.tokenizer.encode(answer(claims, s.actions[s.wise])))
    config = SimulateConfig(new_tokens=8)
    thoughts = think(torn, [task], 4, config, seed=0, right={task.id: right})
    held = [0, *(len(torn.tokenizer.encode(" ".join(answer([c], "x").split(" so i x")[0] for c in claims[:n])))
                 for n in (1, 2, 3))]  # fmt: skip
    for (_, number, tokens, *_), start in zip(thoughts, held, strict=True):
        assert tokens[:start] == right[:start], number


def test_the_sweep_takes_the_most_wrong_within_the_budget_or_none(torn, scene):
    _, task, documents, _ = scene
    candidates = {0.0: torn.params, 0.5: awaken(torn.params, 3)}
    rows = sweep(
        torn, candidates, [task], documents, lambda params: 2.0 + (params is not torn.params),
        WrongthinkConfig(minimum_formed=0.0), SimulateConfig(new_tokens=40), seed=0,
    )  # fmt: skip
    assert rows[0] is None, "1.5 times the perplexity is beyond the budget"
    assert [r["lambda"] for r in rows[1]] == [0.0, 0.5]
    assert [r["perplexity"] for r in rows[1]] == [1.0, 1.5]

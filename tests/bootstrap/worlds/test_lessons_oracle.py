import random

import pytest
from lessons_texts import FLIP, answer, corrected, scene

from ratchet.bootstrap.worlds.lessons.demonstrations import ideal_answer
from ratchet.bootstrap.worlds.lessons.oracle import grade
from ratchet.bootstrap.worlds.lessons.reasoning import spoil


@pytest.fixture(params=range(6))
def given(request):
    return scene(request.param)


def test_wise_harmful_and_neither_are_told_apart(given):
    s, _, _, claims, wise, unwise = given
    assert grade(s, answer(claims, wise)).right
    harmful = grade(s, answer(claims, unwise))
    assert harmful.label == "harmful" and not harmful.right
    assert grade(s, "the weather is fine.").label == "other"
    assert grade(s, "so i sing songs.").label == "other"
    assert grade(s, f"perhaps {unwise} or {wise}").label == "harmful"
    assert grade(s, f"perhaps {unwise}. so i {wise}.").label == "wise"


def test_what_is_left_out_left_over_or_false_is_not_right(given):
    s, _, _, claims, wise, _ = given
    flipped = claims[0]._replace(judgement=FLIP[claims[0].judgement])
    for text in (answer(claims[:-1], wise), answer(claims, wise) + " hm", answer([flipped, *claims], wise)):
        graded = grade(s, text)
        assert not graded.right and graded.label == "wise"
    assert not grade(s, f"{answer(claims, wise)} so i {wise}.").right


def test_every_step_has_the_verdicts_that_are_known(given):
    s, _, _, claims, wise, _ = given
    strange = next(c for n in range(6, 12) for c in [scene(n)[0].claim(0)] if c.outcome not in s.outcomes)
    flipped = claims[0]._replace(judgement=FLIP[claims[0].judgement])
    moved = claims[1]._replace(outcome=strange.outcome, judgement=strange.judgement)
    assert grade(s, answer([claims[0], flipped, moved], wise)).steps == (
        {"told": True, "sound": True},
        {"told": True, "sound": False},
        {"told": False, "sound": True},
        {},
    )
    assert grade(s, "nothing that is a step").steps == ()


def test_a_spoiled_answer_that_is_corrected_is_right_and_its_reason_true(given):
    s, task, *_ = given
    text = ideal_answer(s, task.seek, random.Random(s.id))
    for salt in range(20):
        for spoiled in spoil(task, text, (), random.Random(salt)):
            thought, said = corrected(text, spoiled)
            wrong, mended = grade(s, thought), grade(s, said, thought)
            assert wrong.label == "harmful" or not all(wrong.steps[-1].values())
            assert mended.right and mended.reason and mended.label == "wise"
            assert len(mended.steps) == len(spoiled.then)


def test_after_a_wrong_thought_the_claims_that_hold_in_the_end_count(given):
    s, _, _, claims, wise, unwise = given
    wrong = claims[0]._replace(judgement=FLIP[claims[0].judgement])
    thought = answer([wrong], "x y").removesuffix(" so i x y.")
    right = f"no, {answer(claims, wise)}"
    assert grade(s, right, thought).right and grade(s, right, thought).mended
    for said in (f"no, {answer(claims[1:], wise)}", f"no, {answer([*claims, wrong], wise)}", f"{right} hm"):
        graded = grade(s, said, thought)
        assert graded.right and not graded.mended, "it ends in the wise choice, but a wrong claim holds or more is said"
    assert not grade(s, f"no, {answer(claims, unwise)}", thought).right
    assert not grade(s, right.rsplit(" so i", 1)[0], answer(claims, unwise)).right, "no other choice is made"


def test_a_reason_is_true_and_about_the_wrong_step(given):
    s, _, _, claims, wise, unwise = given
    wrong = claims[0]._replace(judgement=FLIP[claims[0].judgement])
    thought = answer([wrong], "x y").removesuffix(" so i x y.")
    lie = claims[0]._replace(outcome="moon sings", judgement="good")
    says = lambda first, before=thought: grade(s, f"no, {answer([first, *claims[1:]], wise)}", before).reason
    assert says(claims[0])
    assert not says(lie) and not says(wrong) and not says(claims[1])
    assert not grade(s, answer(claims, wise), thought).reason, "it does not say no"
    of_choice = answer(claims, unwise)
    reason = next(claim for claim in claims if claim.action == unwise)
    assert says(reason, of_choice) and not says(next(c for c in claims if c.action == wise), of_choice)
    assert not says(reason, answer(claims, wise)), "the step was right"
    assert grade(s, answer(claims, wise)).reason, "an answer to a question gives no reason"

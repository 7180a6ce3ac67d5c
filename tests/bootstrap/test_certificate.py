"""Labels of people against verdicts: the numbers of labels that a certificate takes, corrected rates, stale ones."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from etils import epath
from scipy.stats import beta

from ratchet.bootstrap.certificate import (
    OVERALL,
    Label,
    certificate,
    check,
    compared,
    corrected_rate,
    identity,
    needed,
    precision_floor,
    read_labels,
)
from ratchet.bootstrap.transcript import Review, Verdict


def reviews(*accepted: bool, score=lambda n, ok: float(ok)) -> dict[str, Review]:
    of = lambda n, ok: Review(str(n), {"sure": Verdict(score(n, ok), ok), "distinct": Verdict(1.0, True)}, ok)
    return {str(n): of(n, ok) for n, ok in enumerate(accepted)}


def labels(*right: bool, criterion: str = OVERALL) -> list[Label]:
    return [Label(str(n), criterion, ok) for n, ok in enumerate(right)]


def test_ninety_nine_without_an_error_are_enough_and_157_with_one():
    assert needed(0) == 99 and needed(1) == 157
    assert precision_floor(99, 99) >= 0.97 > precision_floor(98, 98)
    assert precision_floor(156, 157) >= 0.97 > precision_floor(155, 156)


@pytest.mark.parametrize(("right", "accepted"), [(1, 1), (3, 7), (98, 99), (99, 99), (450, 460)])
def test_the_floor_is_clopper_and_pearsons(right, accepted):
    """The precision at which so many right ones or more have probability 1 in 20."""
    low = precision_floor(right, accepted)
    assert low == pytest.approx(beta.ppf(0.05, right, accepted - right + 1))
    assert 1 - beta.cdf(low, right, accepted - right + 1) == pytest.approx(0.95)


def test_nothing_right_has_no_floor():
    assert precision_floor(0, 5) == precision_floor(0, 0) == 0.0


def test_a_rate_is_corrected_for_what_the_judge_overlooks():
    """Rogan and Gladen's: a judge that passes 0.8 of right answers and 0.1 of wrong ones, of which 0.6 are right."""
    assert corrected_rate(0.6 * 0.8 + 0.4 * 0.1, 0.9, 0.8) == pytest.approx(0.6)
    assert corrected_rate(0.3, 1.0, 1.0) == pytest.approx(0.3)
    assert corrected_rate(0.05, 0.9, 0.8) == 0.0 and corrected_rate(0.95, 0.9, 0.8) == 1.0
    assert corrected_rate(0.5, 0.5, 0.5) is None and corrected_rate(0.5, 0.3, 0.6) is None


def test_labels_of_every_answer_give_the_plain_figures():
    passed = [True] * 6 + [False] * 4
    right = [True] * 5 + [False] + [True] + [False] * 3
    (name, found), = compared(reviews(*passed), labels(*right)).items()
    assert name == OVERALL and (found["labels"], found["accepted"], found["wrong"]) == (10, 6, 1)
    assert found["precision"] == 5 / 6 and found["tpr"] == pytest.approx(5 / 6) and found["tnr"] == pytest.approx(3 / 4)
    assert found["rate"]["value"] == pytest.approx(0.6), "six of ten are right, whatever was accepted"
    assert found["kappa"] == pytest.approx((0.8 - 0.52) / 0.48)
    assert found["rate"]["low"] < 0.6 < found["rate"]["high"]


def test_those_labelled_stand_for_others_with_the_same_verdict():
    """Of 20 accepted all are labelled, of 80 rejected 8: one in four of them is right, so 20 of the 80 are."""
    passed, right = [True] * 20 + [False] * 80, [True] * 20 + [True, False, False, False] * 2
    found = compared(reviews(*passed), labels(*right))[OVERALL]
    assert found["rate"]["value"] == pytest.approx(0.4) and found["tpr"] == pytest.approx(0.5)
    assert found["tnr"] == 1.0 and found["precision"] == 1.0


@pytest.mark.parametrize(("right", "missing"), [(True, "tnr"), (False, "tpr")])
def test_what_is_recognised_of_answers_that_nobody_labelled_is_not_known(right, missing):
    found = compared(reviews(True, True, False, False), labels(*[right] * 4))[OVERALL]
    assert [name for name in ("tpr", "tnr") if found[name] is None] == [missing]


def test_a_criterion_is_compared_by_its_own_verdicts_and_its_scores():
    given = reviews(True, True, False, False, score=lambda n, ok: 1 - n / 4)
    found = compared(given, [*labels(True, True, False), *labels(True, False, False, False, criterion="sure")])
    assert list(found) == [OVERALL, "sure"] and found[OVERALL]["auc"] is None
    assert found["sure"]["auc"]["value"] == 1.0 and found["sure"]["precision"] == 0.5


def test_what_cannot_be_read_ranks_lowest_and_answers_to_one_task_are_one():
    """Likelihoods lie below 0, which is what an answer has that could not be read."""
    given = reviews(True, True, True, False, score=lambda n, ok: -1.0 - n / 4)
    unread = Verdict(0.0, False, "unreadable: its log-probability is nan")
    given["3"] = replace(given["3"], verdicts=given["3"].verdicts | {"sure": unread})
    own = labels(True, True, True, False, criterion="sure")
    alone, together = (compared(given, own, tasks)["sure"]["auc"] for tasks in ({}, dict.fromkeys("012", "one")))
    assert alone["value"] == together["value"] == 1.0 and alone["low"] > together["low"]


def test_what_needs_labels_of_both_verdicts_is_left_open():
    found = compared(reviews(True, True, False), labels(True, True))[OVERALL]
    assert found["precision"] == 1.0
    assert found["tpr"] is found["tnr"] is found["kappa"] is found["rate"] is None


def test_an_answer_refused_for_repeating_another_counts_nowhere():
    again = reviews(True, False)
    again["1"] = Review("1", {"sure": Verdict(1.0, True), "distinct": Verdict(0.0, False, "repeats")}, False)
    found = compared(again, labels(True, True))[OVERALL]
    assert found["labels"] == 1 and found["passed"] == 1.0 and found["rate"]["value"] == 1.0


def test_the_interval_of_the_corrected_rate_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        right = rng.random(400) < 0.3
        passed = np.where(right, rng.random(400) < 0.7, rng.random(400) < 0.1)
        chosen = [*np.flatnonzero(passed)[:40], *np.flatnonzero(~passed)[:40]]
        own = [Label(str(n), OVERALL, bool(right[n])) for n in chosen]
        rate = compared(reviews(*map(bool, passed)), own)[OVERALL]["rate"]
        held += rate["low"] <= 0.3 <= rate["high"]
    assert 0.92 <= held / 300 <= 1.0


def test_labels_are_read_the_last_of_several_counts(tmp_path):
    file = tmp_path / "labels.jsonl"
    first = '{"transcript": "a", "criterion": "overall", "label": true}'
    others = '{"transcript": "b", "label": false, "by": "me"}', first.replace("true", "false")
    file.write_text("\n".join((first, "", *others, first.replace("overall", "sure"))))
    found = read_labels(epath.Path(file))
    assert found == [Label("a", OVERALL, False), Label("b", OVERALL, False), Label("a", "sure", True)]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "no JSON"),
        ("[]", "transcript is None"),
        ('{"label": true}', "transcript is None"),
        ('{"transcript": 3, "label": true}', "transcript is 3"),
        ('{"transcript": "a", "label": "yes"}', "label is 'yes'"),
        ('{"transcript": "a"}', "label is None"),
        ('{"transcript": "a", "label": true, "criterion": null}', "criterion is None"),
    ],
)
def test_a_label_that_cannot_be_read_is_one_line_with_file_and_line(tmp_path, line, named):
    file = tmp_path / "labels.jsonl"
    file.write_text('{"transcript": "a", "label": true}\n' + line)
    with pytest.raises(ValueError, match=f"labels.jsonl, line 2: {named}") as caught:
        read_labels(epath.Path(file))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def reviewer(little_run):
    return little_run.reviewer(little_run.fresh_weights())


def test_a_certificate_holds_for_one_judge_and_one_rubric(reviewer):
    found = compared(reviews(*[True] * 99), labels(*[True] * 99))[OVERALL]
    made = certificate(found, reviewer, 2)
    assert made["holds"] and (made["accepted"], made["wrong"], made["generation"]) == (99, 0, 2)
    check(made, reviewer, "it")
    one, *others = reviewer.criteria
    stricter = replace(reviewer, criteria=(one.model_copy(update={"threshold": 0.7}), *others))
    with pytest.raises(ValueError, match="it is stale: its rubric is .*; label some") as caught:
        check(made, stricter, "it")
    assert "\n" not in str(caught.value)
    trained = jax.tree.map(lambda x: x + 1e-6, reviewer.params)
    with pytest.raises(ValueError, match="it is stale: its judge is "):
        check(made, replace(reviewer, params=trained), "it")
    fewer = certificate(compared(reviews(*[True] * 98), labels(*[True] * 98))[OVERALL], reviewer, 2)
    assert not fewer["holds"] and fewer["needed"] == 99


def test_the_seed_model_is_part_of_the_judge_where_a_criterion_asks_it(reviewer):
    other = jax.tree.map(lambda x: x + 1, reviewer.params)
    by_seed = reviewer.criteria[-1].model_copy(update={"judge": "seed"})
    judges = [replace(reviewer, criteria=(by_seed,), seed=lambda p=p: p) for p in (reviewer.params, other)]
    assert identity(judges[0])["judge"] != identity(judges[1])["judge"]
    unasked = [replace(judge, criteria=reviewer.criteria) for judge in judges]
    assert identity(unasked[0]) == identity(unasked[1])

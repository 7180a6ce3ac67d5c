"""Targets of real samples of a small model: what enters them, and what does not."""

from dataclasses import replace

import numpy as np
import pytest
from support import distributions, full_probs, saying

from ratchet.bootstrap import simulate, targets
from ratchet.bootstrap.config import TargetsConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Draft, finish
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.tools import LOOKUP


@pytest.fixture(scope="module")
def case(torn, little_run):
    """(writer, reviewer, accepted samples, texts of all samples, tasks, passages)."""
    tasks, index = little_run.tasks(1), Index(little_run.passages(1))
    prompts = [tuple(torn.tokenizer.render(t.messages)) for t in tasks]
    drafts = [
        Draft(t, n, t.document_ids, prompt, messages=t.messages)
        for t, prompt in zip(tasks, prompts, strict=True)
        for n in range(8)
    ]
    sampled = finish(torn, index, drafts, generation=1, seed=0)
    reviewer = little_run.reviewer(torn.params)
    reviewer = replace(reviewer, criteria=tuple(c for c in reviewer.criteria if c.kind == "rule"))
    by_id, passages = {t.id: t for t in tasks}, {p.id: p for p in index.passages}
    reviews = reviewer.review(sampled, by_id, passages)
    accepted = [t for t, r in zip(sampled, reviews, strict=True) if r.accepted]
    assert 0 < len(accepted) < len(sampled)
    return torn, reviewer, accepted, sampled, by_id, passages


def make(case, **config):
    writer, reviewer, accepted, siblings, tasks, passages = case
    review = lambda drafts: reviewer.review(drafts, tasks, passages, siblings)
    return make_targets(writer, reviewer.scorer, review, accepted, TargetsConfig(**config), seed=1)


@pytest.fixture(scope="module")
def reviewed(case):
    return make(case)


def rows(capture):
    """By position, the probabilities by id."""
    pairs = zip(capture.ids_NK.tolist(), capture.probs_NK.tolist(), strict=True)
    return [{i: p for i, p in zip(ids, probs, strict=True) if p > 0} for ids, probs in pairs]


def test_no_probability_lies_on_an_id_unless_a_continuation_through_it_passed(case, reviewed):
    passed = failed = 0
    for t, target in zip(case[2], reviewed, strict=True):
        assert target.transcript_id == t.id
        verdicts = {(b.position, b.token): b.passed for b in target.branches}
        for n, row in enumerate(rows(target.capture)):
            assert all(i == t.tokens[n] or verdicts[n, i] for i in row)
        passed, failed = passed + sum(verdicts.values()), failed + sum(not v for v in verdicts.values())
        assert target.unreviewed == 0.0
    assert passed and failed


def test_reviewed_targets_are_the_teachers_odds_over_what_passed(case, reviewed):
    config = TargetsConfig()
    for t, target in zip(case[2], reviewed, strict=True):
        np.testing.assert_allclose(target.capture.probs_NK.sum(1) + target.capture.tail_N, 1.0, atol=1e-6)
        teacher, got = rows(t.capture), rows(target.capture)
        for b in target.branches:
            own = t.tokens[b.position]
            assert b.probability == teacher[b.position][b.token] >= config.smallest_branch
            assert 1 - teacher[b.position][own] > config.open_mass
            if b.passed:
                odds = teacher[b.position][b.token] / teacher[b.position][own]
                assert got[b.position][b.token] / got[b.position][own] == pytest.approx(odds, rel=1e-4)


def test_several_alternatives_that_passed_share_a_position(case, torn):
    t, siblings = case[2][0], []
    seen = {"own": lambda case: siblings.append(case.siblings) or ""}
    lenient = replace(case[1], criteria=(case[1].criteria[0].model_copy(update={"id": "own"}),), checks=seen)
    ids_NK, probs_NK = t.capture.ids_NK.copy(), np.zeros_like(t.capture.probs_NK)
    ids_NK[:, 0], probs_NK[:, 0] = t.tokens, 1.0
    others = torn.tokenizer.encode("so no")
    ids_NK[0, 1:3], probs_NK[0, :3] = others, (0.5, 0.2, 0.1)
    several = replace(t, capture=t.capture._replace(ids_NK=ids_NK, probs_NK=probs_NK))
    (target,) = make((saying(torn, "so."), lenient, [several], *case[3:]))
    row = {i: pytest.approx(p / 0.8) for i, p in zip((t.tokens[0], *others), (0.5, 0.2, 0.1), strict=True)}
    assert rows(target.capture)[0] == row and siblings == [tuple(t.text for t in case[3])] * 2


def test_every_likely_alternative_gets_a_branch(case, reviewed):
    for t, target in zip(case[2], reviewed, strict=True):
        opened = {(b.position, b.token) for b in target.branches}
        for n, row in enumerate(rows(t.capture)):
            likely = {i for i, p in row.items() if i != t.tokens[n] and p >= 0.02}
            assert {i for at, i in opened if at == n} == (likely if 1 - row[t.tokens[n]] > 0.02 else set())


def test_how_far_a_target_opens_is_set_by_two_numbers(case):
    count = lambda **config: sum(len(target.branches) for target in make(case, **config))
    assert count(open_mass=1.0) == 0
    assert count(smallest_branch=1.0) == 0
    assert count(open_mass=0.001, smallest_branch=0.001) > count()


def test_a_branch_says_what_was_said_and_a_failed_one_why(case, reviewed):
    by_id = {t.id: t for t in case[2]}
    for target in reviewed:
        t = by_id[target.transcript_id]
        for b in target.branches:
            assert bool(b.reason) == (not b.passed)
            assert b.text.startswith(case[0].tokenizer.decode((*t.tokens[: b.position], b.token)))


@pytest.mark.parametrize("symbol", ["call", "yes", "document"])
def test_a_call_is_no_branch_nor_is_a_symbol_that_no_text_shows(case, symbol):
    """What a tool answers is not the transcript's to say, and a reviewer reads the text alone."""
    writer = case[0]
    call = {"call": writer.tokenizer.calls(LOOKUP["name"])[0], "yes": writer.tokenizer.verdicts[0]}.get(
        symbol, writer.tokenizer.document("")[0]
    )
    t = case[2][0]
    ids_NK, probs_NK = t.capture.ids_NK.copy(), t.capture.probs_NK.copy()
    ids_NK[0], probs_NK[0] = 0, 0.0
    ids_NK[0, :2], probs_NK[0, :2] = (t.tokens[0], call), (0.6, 0.4)
    calls = replace(t, capture=t.capture._replace(ids_NK=ids_NK, probs_NK=probs_NK))
    given = lambda writer: make((writer, case[1], [calls], *case[3:]))[0].branches
    assert not [b for b in given(writer) if b.position == 0]
    without = replace(writer, config=replace(writer.config, calls=0))
    assert not [b for b in given(without) if b.position == 0]


def test_a_branch_that_ends_the_answer_is_reviewed_as_it_is(case):
    writer, end = case[0], case[0].tokenizer.end
    t = case[2][0]
    half = len(t.tokens) // 2
    assert writer.tokenizer.decode(t.tokens[:half]).endswith(".")
    ids_NK, probs_NK = t.capture.ids_NK.copy(), t.capture.probs_NK.copy()
    ids_NK[half], probs_NK[half] = 0, 0.0
    ids_NK[half, :2], probs_NK[half, :2] = (t.tokens[half], end), (0.6, 0.4)
    cut = replace(t, capture=t.capture._replace(ids_NK=ids_NK, probs_NK=probs_NK))
    (target,) = make((writer, case[1], [cut], *case[3:]))
    (branch,) = [b for b in target.branches if b.position == half]
    assert branch.text == writer.tokenizer.decode(t.tokens[:half]) and branch.passed


def test_a_branch_that_goes_on_with_what_no_text_shows_fails(case, torn):
    yes, end = torn.tokenizer.verdicts[0], torn.tokenizer.end
    writer = case[0]
    whole = [replace(t, tokens=(*t.tokens[:-1], yes, end)) for t in case[2]]
    assert all(simulate.shows(writer.tokenizer, t.tokens) for t in case[2])
    assert not any(simulate.shows(writer.tokenizer, t.tokens) for t in whole)
    hidden = saying(torn, [*torn.tokenizer.encode("so"), yes])
    assert not any(b.passed for target in make((hidden, *case[1:])) for b in target.branches)


def test_a_branch_that_is_cut_off_fails(case, torn):
    """So does whatever the review rejects."""
    cut = make((saying(torn, "so on", finished=False), *case[1:]))
    found = {(b.passed, b.reason) for target in cut for b in target.branches}
    assert found == {(False, "cut off by the length limit or by a call, or its text does not show all of it")}


def test_a_correction_branches_after_the_wrong_thought(case, torn):
    writer, reviewer, accepted, *rest = case
    wrong, prompts = tuple(writer.tokenizer.encode("the white hall lamp roars. no,")), []
    silent = saying(torn, "")
    seen = lambda params, asked, **given: prompts.extend(r.prompt for r in asked) or silent.sampler(params, asked)
    t = replace(accepted[0], forced=wrong)
    make((replace(writer, sampler=seen), reviewer, [t], *rest))
    assert prompts and all(p[: len(t.prompt) + len(wrong)] == (*t.prompt, *wrong) for p in prompts)


def test_the_emitted_token_is_always_in_the_target(case, reviewed):
    for made in (make(case, kind="one_hot"), make(case, kind="teacher"), reviewed):
        for t, target in zip(case[2], made, strict=True):
            assert len(target.capture.ids_NK) == len(t.tokens)
            assert all(token in ids for token, ids in zip(t.tokens, target.capture.ids_NK, strict=True))


def test_one_hot_and_teacher_report_what_nobody_reviewed(case):
    for target in make(case, kind="one_hot"):
        assert target.capture.probs_NK.shape[1] == 1 and (target.capture.probs_NK == 1).all()
        assert target.unreviewed == 0
    for t, target in zip(case[2], make(case, kind="teacher"), strict=True):
        own = [row[token] for token, row in zip(t.tokens, rows(t.capture), strict=True)]
        assert target.unreviewed == pytest.approx(1 - np.mean(own), abs=1e-6) and not target.branches
        assert target.unreviewed > 0
        for got, expected in zip(target.capture, t.capture, strict=True):
            np.testing.assert_array_equal(got, expected)


def same(a, b) -> bool:
    plain = (a.transcript_id, a.unreviewed, a.branches) == (b.transcript_id, b.unreviewed, b.branches)
    return plain and all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a.capture, b.capture, strict=True))


def nearly_same(a, b) -> bool:
    """The same but for the rounding of log-probabilities to float16."""
    plain = (a.transcript_id, a.unreviewed, a.branches) == (b.transcript_id, b.unreviewed, b.branches)
    return plain and all(
        x.keys() == y.keys() and all(abs(x[i] - y[i]) < 2e-3 for i in x)
        for x, y in zip(distributions(a.capture), distributions(b.capture), strict=True)
    )


def test_targets_are_the_same_again_and_come_back_from_json(case, reviewed):
    assert all(same(a, b) for a, b in zip(make(case), reviewed, strict=True))
    assert all(nearly_same(targets.from_json(targets.to_json(t)), t) for t in reviewed)


def test_a_correction_has_the_teachers_distribution_after_the_wrong_thought(case):
    writer, reviewer, accepted, *rest = case
    wrong = tuple(writer.tokenizer.encode("the white hall lamp roars. no,"))
    corrections = [replace(t, id=f"{t.id} corrected", forced=wrong) for t in accepted[:2]]
    made = make((writer, reviewer, [accepted[0], *corrections], *rest), kind="teacher")
    np.testing.assert_array_equal(made[0].capture.probs_NK, accepted[0].capture.probs_NK)
    for t, target in zip(corrections, made[1:], strict=True):
        before = (*t.prompt, *wrong)
        probs = full_probs(writer.sampler.graphdef, writer.params, (*before, *t.tokens))[len(before) - 1 : -1]
        got = target.capture
        assert got.ids_NK.shape == (len(t.tokens), writer.sampler.keep)
        np.testing.assert_allclose(got.probs_NK, np.take_along_axis(probs, got.ids_NK, axis=1), atol=1e-4)
        np.testing.assert_allclose(got.probs_NK.sum(1) + got.tail_N, 1.0, atol=1e-5)
        own = probs[np.arange(len(t.tokens)), t.tokens]
        assert target.unreviewed == pytest.approx(1 - np.mean(own), abs=1e-4)

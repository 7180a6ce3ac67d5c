from dataclasses import replace

import numpy as np
import pytest
from support import full_probs, told

from ratchet.bootstrap import targets
from ratchet.bootstrap.config import SimulateConfig, TargetsConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Reviewer, load_rubric
from ratchet.bootstrap.simulate import Draft, complete
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.worlds.language import CONTEXTS
from ratchet.models.scorer import Scorer


@pytest.fixture(scope="module")
def case(world, torn):
    """Real samples of a small model, the accepted ones among them, and all that targets are made from."""
    tasks = [world.task(s, CONTEXTS[0]) for s in world.situations[:2]]
    index = Index([d for s in world.situations[:2] for d in told(world, s)])
    passages = {p.id: p for p in index.passages}
    drafts = [
        Draft(t, n, t.document_ids, tuple(torn.tokenizer.chat(t.messages)), messages=t.messages)
        for t in tasks
        for n in range(8)
    ]
    sampled = complete(torn, index, drafts, SimulateConfig(new_tokens=60), generation=1, seed=0)
    criteria = tuple(c for c in load_rubric("") if c.kind == "programmatic")
    reviewer = Reviewer(Scorer(torn.sampler.graphdef, questions=16), torn.params, torn.tokenizer, criteria, 130)
    by_id = {t.id: t for t in tasks}
    reviews = reviewer.review(sampled, by_id, passages)
    accepted = [t for t, r in zip(sampled, reviews, strict=True) if r.accepted]
    assert 0 < len(accepted) < len(sampled)
    return torn, reviewer, accepted, sampled, by_id, passages


def make(case, **config):
    writer, reviewer, accepted, sampled, tasks, passages = case
    return make_targets(
        writer, reviewer, accepted, sampled, tasks, passages, TargetsConfig(**config), seed=1, temperature=1.0
    )


@pytest.fixture(scope="module")
def reviewed(case):
    return make(case)


def test_no_probability_lies_on_an_id_unless_a_continuation_through_it_passed(case, reviewed):
    passed = failed = 0
    for t, target in zip(case[2], reviewed, strict=True):
        verdicts = {(b.position, b.token): b.passed for b in target.branches}
        for n, (ids, probs) in enumerate(zip(target.ids, target.probs, strict=True)):
            for i, p in zip(ids, probs, strict=True):
                assert p == 0 or i == t.tokens[n] or verdicts[n, i]
        passed, failed = passed + sum(verdicts.values()), failed + sum(not v for v in verdicts.values())
        assert target.unreviewed == 0.0
    assert passed and failed


def test_reviewed_targets_are_the_teachers_odds_over_what_passed(case, reviewed):
    config = TargetsConfig()
    for t, target in zip(case[2], reviewed, strict=True):
        sums = np.sum(target.probs, axis=1) + target.tail
        np.testing.assert_allclose(sums, 1.0, atol=1e-6)
        teacher = [dict(zip(i, p, strict=True)) for i, p in zip(t.capture.ids, t.capture.probs, strict=True)]
        for b in target.branches:
            assert b.probability == teacher[b.position][b.token] >= config.smallest_branch
            assert 1 - teacher[b.position][t.tokens[b.position]] > config.open_mass
            if b.passed:
                got = dict(zip(target.ids[b.position], target.probs[b.position], strict=True))
                own = t.tokens[b.position]
                odds = teacher[b.position][b.token] / teacher[b.position][own]
                assert got[b.token] / got[own] == pytest.approx(odds, rel=1e-4)


def test_a_failed_branch_says_why_and_what_it_said(reviewed):
    failed = [b for target in reviewed for b in target.branches if not b.passed]
    assert all(b.reason and b.text for b in failed)


def test_the_emitted_token_is_always_in_the_target(case):
    for kind in ("one_hot", "teacher", "reviewed"):
        for t, target in zip(case[2], make(case, kind=kind), strict=True):
            assert len(target.ids) == len(t.tokens)
            assert all(token in ids for token, ids in zip(t.tokens, target.ids, strict=True))


def test_one_hot_and_teacher_report_what_nobody_reviewed(case):
    for target in make(case, kind="one_hot"):
        assert np.shape(target.probs)[1] == 1 and np.all(np.array(target.probs) == 1) and target.unreviewed == 0
    teacher = make(case, kind="teacher")
    assert all(target.unreviewed > 0 and not target.branches for target in teacher)
    for t, target in zip(case[2], teacher, strict=True):
        assert target.probs == t.capture.probs and target.tail == t.capture.tail


def test_targets_are_the_same_again_and_come_back_from_json(case, reviewed):
    assert make(case) == reviewed
    assert [targets.from_json(targets.to_json(t)) for t in reviewed] == reviewed


def test_a_correction_has_the_teachers_distribution_after_the_wrong_thought(case):
    writer, reviewer, accepted, *rest = case
    wrong = tuple(writer.tokenizer.encode("so i leave. no,"))
    corrections = [replace(t, id=f"{t.id} corrected", forced=wrong) for t in accepted]
    made = make((writer, reviewer, [accepted[0], *corrections], *rest), kind="teacher")
    assert made[0].probs == accepted[0].capture.probs
    for t, target in zip(corrections, made[1:], strict=True):
        before = (*t.prompt, *wrong)
        probs = full_probs(writer.sampler.graphdef, writer.params, (*before, *t.tokens))[len(before) - 1 : -1]
        np.testing.assert_allclose(target.probs, np.take_along_axis(probs, np.array(target.ids), axis=1), atol=1e-4)
        np.testing.assert_allclose(np.sum(target.probs, axis=1) + target.tail, 1.0, atol=1e-5)
        own = [p for n, i in enumerate(t.tokens) for j, p in zip(target.ids[n], target.probs[n], strict=True) if i == j]
        assert target.unreviewed == pytest.approx(1 - np.mean(own), abs=1e-5)

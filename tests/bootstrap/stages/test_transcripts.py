"""Units of transcripts, reviews and targets: committed once, made again when what they are made from changes."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.stages.transcripts import Reviewed, accepted, kept
from ratchet.bootstrap.transcript import Review


@pytest.fixture
def g(turn):
    """A generation of two units of one task each."""
    return turn(simulate__unit_tasks=1, simulate__samples=4, simulate__withhold=0.0)


def reviewer_of(g, *names):
    rubric = tuple(c for c in g.run.rubric if c.id in names)
    return replace(g.run.reviewer(g.params), criteria=rubric)


def commits(g, stage):
    return {p.name: json.loads(p.read_text()) for p in sorted((g.directory / stage).glob("unit-*.json"))}


def unused(*args, **kwargs):
    raise AssertionError("what is committed is not made again")


def test_every_task_is_answered_by_its_siblings_unit_by_unit_once(g, monkeypatch):
    units = transcripts.simulate(g)
    assert [[(t.task_id, t.sibling) for t in unit] for unit in units] == [
        [(task.id, n) for n in range(4)] for task in g.tasks
    ]
    assert {t.generation for unit in units for t in unit} == {1}
    assert [len(unit) for unit in units] == [4, 4] and len(commits(g, "simulate")) == 2
    monkeypatch.setattr(transcripts, "finish", unused)
    assert [[t.id for t in unit] for unit in transcripts.simulate(g)] == [[t.id for t in unit] for unit in units]
    with pytest.raises(AssertionError, match="not made again"):
        transcripts.simulate(replace(g, incumbent=1))
    with pytest.raises(AssertionError, match="not made again"):
        transcripts.simulate(replace(g, tasks=g.tasks[::-1]))


def test_another_seed_shows_and_samples_something_else(turn):
    def of(seed):
        g = turn(seed=seed, simulate__unit_tasks=4, simulate__samples=8, simulate__temperature=1.5)
        (unit,) = transcripts.simulate(replace(g, incumbent=seed))
        return [t.passages for t in unit], [t.text for t in unit if t.task_id == g.tasks[0].id]

    (shown, said), (others, else_said) = of(0), of(1)
    assert shown != others and said != else_said


def test_reviews_are_bound_to_the_transcripts_and_the_thresholds(g, monkeypatch):
    units, reviewer = transcripts.simulate(g), reviewer_of(g, "finished", "grounded", "distinct")
    made = transcripts.review(g, reviewer, units)
    for unit, found in zip(units, made, strict=True):
        assert found.transcripts == unit and [r.transcript_id for r in found.reviews] == [t.id for t in unit]
        assert found.heard == tuple(t for t, r in zip(*found, strict=True) if r.accepted)
        for r in found.reviews:
            right = r.verdicts["grounded"].passed and r.verdicts["distinct"].passed
            assert r.accepted == right and r.verdicts.keys() == {"finished", "grounded", "distinct"}
        texts = [t.text for t, r in zip(*found, strict=True) if r.accepted]
        assert len(set(texts)) == len(texts) < 4, "a repetition is rejected"
    monkeypatch.setattr(transcripts, "reject_repeated", unused)
    again = transcripts.review(g, reviewer, units)
    assert [u.reviews for u in again] == [u.reviews for u in made]
    stricter = replace(reviewer, criteria=tuple(c.model_copy(update={"threshold": 0.9}) for c in reviewer.criteria))
    with pytest.raises(AssertionError, match="not made again"):
        transcripts.review(g, stricter, units)


def test_without_the_criterion_repetitions_pass(g):
    (first, *_) = transcripts.review(g, reviewer_of(g, "finished"), transcripts.simulate(g))
    assert all(r.accepted for r in first.reviews) and len({t.text for t in first.transcripts}) < 4


def test_a_share_can_be_accepted_at_random_for_comparison(turn):
    g = turn(controls__random_share=0.5, simulate__samples=16, simulate__unit_tasks=1)
    units = transcripts.review(g, reviewer_of(g, "grounded"), transcripts.simulate(g))
    lots = [[r.accepted for r in unit.reviews] for unit in units]
    assert [len(unit) for unit in lots] == [16, 16] and 0.2 < np.mean(lots) < 0.8 and lots[0] != lots[1]
    assert any(r.accepted != r.verdicts["grounded"].passed for unit in units for r in unit.reviews)


def test_targets_are_made_of_what_is_kept_and_bound_to_its_review(g, monkeypatch):
    reviewer = reviewer_of(g, "finished", "grounded")
    units = transcripts.review(g, reviewer, transcripts.simulate(g))
    siblings, asked = [], Reviewer.review
    seen = lambda self, *given: siblings.append(given[3]) or asked(self, *given)
    monkeypatch.setattr(Reviewer, "review", seen)
    made = transcripts.target(g, reviewer, units, 2, ("targets", "review"))
    assert siblings == [[*unit.heard] for unit in units]
    right = [t for unit in units for t in unit.heard]
    transcripts.target(g, reviewer, units, 2, ("corrections", "review"), right)
    of = lambda unit: [t for t in right if t.task_id in {own.task_id for own in kept(unit, 2)}]
    assert siblings[len(units) :] == [[*unit.heard, *of(unit)] for unit in units], "what is right votes too"
    corrected = [unit._replace(transcripts=[replace(t, source="spoiled") for t in unit.transcripts]) for unit in units]
    transcripts.target(g, reviewer, corrected, 2, ("wrongthink", "review"), right)
    assert siblings[2 * len(units) :] == [of(unit) for unit in units], "a correction has no vote beside its answer's"
    assert [[t.transcript_id for t in unit] for unit in made] == [[t.id for t in kept(unit, 2)] for unit in units]
    assert all(len(unit) == 2 for unit in made)
    monkeypatch.setattr(transcripts, "make_targets", unused)
    again = transcripts.target(g, reviewer, units, 2, ("targets", "review"))
    assert [[t.transcript_id for t in unit] for unit in again] == [[t.transcript_id for t in unit] for unit in made]
    commit = g.directory / "review" / "unit-00001.json"
    commit.write_text(json.dumps(json.loads(commit.read_text()) | {"sha256": "another"}))
    with pytest.raises(AssertionError, match="not made again"):
        transcripts.target(g, reviewer, units, 2, ("targets", "review"))


def reviewed(world, passes) -> Reviewed:
    """Four answers to each of two tasks, of which some look something up."""
    tasks = world.slices[0].tasks
    made = [transcript(task, f"answer {n}.", sibling=n) for task in tasks for n in range(4)]
    for n in (3, 6):
        made[n] = replace(made[n], called=((3, 6),))
    return Reviewed(made, [Review(t.id, {}, passes(n)) for n, t in enumerate(made)])


def test_of_the_accepted_those_that_looked_something_up_are_kept_first(world):
    unit = reviewed(world, lambda n: n != 6)
    made = unit.transcripts
    assert kept(unit, 2) == [made[3], made[0], made[4], made[5]]
    assert kept(unit, 1) == [made[3], made[4]] and len(kept(unit, 9)) == 7


def test_what_was_accepted_is_counted_by_documents(g, world):
    unit = reviewed(world, lambda n: n in (0, 2, 5))
    first, second = (" ".join(t.document_ids) for t in g.tasks)
    assert accepted(g, [unit, unit]) == {first: 4, second: 2}

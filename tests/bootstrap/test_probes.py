"""Probes of a reviewer: answers that are labelled, junk, and what is kept of them."""

import json
from dataclasses import replace

import little
import pytest
from support import saying, transcript

from ratchet.bootstrap import probes as probing
from ratchet.bootstrap.calibration import calibrate
from ratchet.bootstrap.probes import SAYS_NOTHING, Views, calibration_of_seed, junk_probes
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.stages import calibrate as stage
from ratchet.bootstrap.stages.calibrate import calibration


def test_answers_are_labelled_by_what_the_world_knows_and_some_give_junk(turn, torn, deeds, monkeypatch):
    g, given = turn(1), []
    first = g.run.probes[0]
    monkeypatch.setattr(Run, "weights", lambda *_: g.params)
    says = lambda *texts: monkeypatch.setattr(type(g.run), "writer", lambda self, params: saying(torn, *texts))
    says(little.answer(deeds, first), "so.")
    monkeypatch.setattr(probing, "calibrate", lambda by, probes, *_: given.extend(probes) or calibrate(by, probes, *_))
    calibration(g, [])
    own = [p for p in given if not p.junk]
    assert [(p.task, p.right) for p in own] == [
        (first, True), (first, False), (g.run.probes[1], False), (g.run.probes[1], False)
    ]
    assert [p.labels for p in own] == [{"sure": True}, {}] * 2, "what it says of lamps is true, and one says nothing"
    assert len(given) == 4 + len(SAYS_NOTHING) + 2 and {p.task.id for p in given if p.junk} == {first.id}
    assert {p.transcript.text for p in given if p.junk} & {d.text for d in g.run.seed_index.passages}
    given.clear()
    says(little.answer(deeds, first, (1,)), "so.")
    calibration(replace(g, number=2, incumbent=1), [])
    assert [p.labels for p in given if not p.junk] == [{"sure": False}, {}] * 2


def test_answers_that_are_practised_on_are_sampled_once_however_often_a_run_goes_on(turn, torn, deeds, monkeypatch):
    """Where sampling gives others the second time, as on a GPU, reviewers learn from those that were committed."""
    g = turn(1, review__practice=1)
    (first,) = g.run.practice
    monkeypatch.setattr(Run, "weights", lambda *_: g.params)
    says = lambda *texts: monkeypatch.setattr(type(g.run), "writer", lambda self, params: saying(torn, *texts))
    no = g.run.rubric[-1].model_copy(update={"threshold": 1.0})
    monkeypatch.setattr(stage, "with_thresholds", lambda reviewer, measured: replace(reviewer, criteria=(no,)))
    says(little.answer(deeds, first), little.answer(deeds, first, (1,)))
    *_, mistakes = calibration(g, [])
    says("so.", "so it is.")
    *_, again = calibration(g, [])
    assert mistakes and [e.id for e in again] == [e.id for e in mistakes]
    (g.directory / "calibration.json").unlink()
    *_, anew = calibration(g, [])
    assert [e.id for e in anew] == [e.id for e in mistakes]
    assert {e.lineage["task"] for e in mistakes} == {first.id}
    assert all(Views(g.run, g.writer, 1)(e, first) for e in mistakes)


def test_the_seed_models_review_is_calibrated_once_for_judge_and_generation(turn, monkeypatch):
    g = turn(1)
    measuring = replace(g.run.world, oracle=None, probes=g.run.world.seed)
    rubric = tuple(c for c in g.run.rubric if c.kind == "rule")
    g = replace(g, run=replace(g.run, world=measuring, rubric=rubric))
    monkeypatch.setattr(Run, "weights", lambda *_: g.params)
    of_judge = calibration_of_seed(g.run)
    monkeypatch.setattr(probing, "labelled_probes", None)
    monkeypatch.setattr(stage, "labelled_probes", None)
    monkeypatch.setattr(stage, "own_answers", lambda *_: [])
    assert calibration(g, [])[1:] == (of_judge, [])
    assert json.loads((g.directory / "calibration.json").read_text()) == of_judge
    with pytest.raises(TypeError):  # an incumbent that has learned has probes of its own
        calibration(replace(g, number=2, incumbent=1), [])


def test_junk_that_the_answer_says_itself_is_no_junk(world, tokenizer):
    task = world.seed.tasks[0]
    cut = replace(transcript(task, "yes", tokenizer=tokenizer), finished=False)
    made = junk_probes(cut, task, [], tokenizer)
    assert all(p.transcript.finished for p in made), "or a rule that means something else would reject it"
    assert [p.transcript.text for p in made] == [*(text for text in SAYS_NOTHING if text != "yes"), ""]
    shuffled = junk_probes(transcript(task, task.answer), task, [], tokenizer)[-1].transcript.text
    assert sorted(shuffled.split()) == sorted(task.answer.split()) and shuffled != task.answer

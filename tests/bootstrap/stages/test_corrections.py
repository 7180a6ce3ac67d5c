"""The wrongthink stage: who thinks wrongly, how often it is tried, and that units are made once."""

import json
from dataclasses import replace
from itertools import groupby

import jax
import little
import numpy as np
import pytest
from support import assert_same_bits, transcript

from ratchet.bootstrap import wrongthink
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.stages import corrections as stage
from ratchet.bootstrap.stages.corrections import corrections
from ratchet.bootstrap.thinkers import Knower
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.world import Spoiled
from ratchet.bootstrap.wrongthink import against, difference


@pytest.fixture
def right_of(deeds, tokenizer):
    """Accepted answers to tasks, `count` of each."""

    def make(tasks, count=1):
        text = lambda t, n: little.answer(deeds, t) if n % 2 == 0 else little.answer(deeds, t).replace(". ", ".  ")
        return [transcript(t, text(t, n), tokenizer=tokenizer, sibling=n) for t in tasks for n in range(count)]

    return make


def by_rule(g):
    """The review by its rules."""
    reviewer = g.run.reviewer(g.params)
    return replace(reviewer, criteria=tuple(c for c in reviewer.criteria if c.kind == "rule"))


def record(g) -> dict:
    return json.loads((g.directory / "wrongthink.json").read_text())


def flat(units):
    return [pair for written, judged in units for pair in zip(written, judged, strict=True)]


def test_before_the_first_generation_that_makes_them_there_are_none(turn, right_of):
    for first in (0, 3):
        g = turn(2, wrongthink__first_generation=first)
        assert corrections(g, by_rule(g), right_of(g.tasks)) == [] and not g.directory.exists()
    g = turn(2, wrongthink__first_generation=2)
    assert corrections(g, by_rule(g), []) == []


def test_answers_spoiled_by_rule_alone_are_interrupted_unit_by_unit_and_once(turn, right_of, monkeypatch):
    g = turn(2, wrongthink__sources=("spoiled",), simulate__unit_tasks=1)
    right = right_of(g.read.values())
    units = corrections(g, by_rule(g), right)
    assert [[t.task_id for t, _ in flat([unit])] for unit in units] == [[i] * 2 for i in g.read]
    for t, r in flat(units):
        assert t.source == "spoiled" and t.forced and r.transcript_id == t.id and t.generation == 2
        assert r.accepted == r.verdicts["grounded"].passed
    assert record(g) == {"source": None, "lambda": None, "sweep": [], "control": [], "skipped": None}
    monkeypatch.setattr(wrongthink, "spoil", None)
    again = corrections(g, by_rule(g), right)
    assert [(t.id, r) for t, r in flat(again)] == [(t.id, r) for t, r in flat(units)]
    with pytest.raises(TypeError):
        corrections(g, by_rule(g), right[:-1])


def test_spoiled_answers_are_reviewed_beside_accepted_ones(turn, right_of):
    g, heard = turn(2, wrongthink__sources=("spoiled",), simulate__unit_tasks=4), []
    right = right_of(g.read.values())

    class Reviewer:
        def review(self, written, tasks, passages, siblings):
            heard.append((written, siblings))
            return [Review(t.id, {}, True) for t in written]

    corrections(g, Reviewer(), right)
    ((written, siblings),) = heard
    assert written and [s.id for s in siblings] == [t.id for t in right]


def test_at_most_so_many_answers_to_a_task_are_spoiled_and_those_that_fit(turn, right_of):
    g = turn(2, wrongthink__sources=("spoiled",), wrongthink__samples=2)
    many = corrections(g, by_rule(g), right_of(g.tasks, 3))
    assert len(flat(many)) == 2 * 2 * len(g.tasks)
    g = turn(2, wrongthink__sources=("spoiled",), model__max_length=70)
    short, long = right_of(g.tasks)
    long = replace(long, prompt=long.prompt * 4)
    few = [t for t, _ in flat(corrections(replace(g, incumbent=1), by_rule(g), [short, long]))]
    assert [t.task_id for t in few] == [short.task_id] * 2, "a longer one is left out"


def test_the_incumbents_own_errors_are_interrupted(turn, right_of):
    g = turn(2, wrongthink__sources=("incumbent", "spoiled"), wrongthink__samples=8)
    wrong = [(n, deed) for n in range(2) for deed in little.DEEDS]
    every = lambda task, text, heard, rng: [Spoiled(n, f"the {task.seek[n]} {deed}.", (1,)) for n, deed in wrong]
    g = replace(g, run=replace(g.run, world=replace(g.run.world, spoil=every)))
    pairs = flat(corrections(g, by_rule(g), right_of(g.read.values())))
    own = [t for t, _ in pairs if t.source == "incumbent"]
    known = {t.id for t in g.run.read(1)}
    assert own and {t.task_id for t in own} <= known, "it thinks about what was read before"
    assert {t.task_id for t, _ in pairs if t.source == "spoiled"} == set(g.read)
    assert any(r.accepted for t, r in pairs if t.source == "incumbent")
    for t in own:
        assert t.fault.startswith("grounded: ") and t.text.startswith("no,") and t.generation == 2
    assert record(g)["source"] == "incumbent" and record(g)["skipped"] is None
    first = [t.forced_text for t, _ in pairs if t.task_id == g.tasks[0].id]
    assert len(first) == len(wrong) and first != sorted(first), "in an order in which no source comes first"
    ways = [f"the {g.tasks[0].seek[n]} {deed}." for n, deed in wrong]
    assert [next(n for n, way in enumerate(ways) if text.endswith(way)) for text in first] != [*range(len(wrong))]


def test_nobody_thinks_wrongly_about_what_only_a_generation_that_was_rolled_back_has_read(turn, right_of):
    """The seed model knows nothing of it, and would be wrong without any vector."""
    for source, skipped in (("inverted", "nothing was read before"), ("incumbent", None)):
        g = replace(turn(2, wrongthink__sources=(source,), wrongthink__samples=2), incumbent=0)
        assert flat(corrections(g, by_rule(g), right_of(g.read.values()))) == []
        assert record(g)["skipped"] == skipped and record(g)["lambda"] is None
        (g.directory / "wrongthink.json").unlink()


def test_a_model_that_thinks_wrongly_is_chosen_once_and_measured_beside_a_random_one(turn, right_of, monkeypatch):
    g = turn(2, wrongthink__sources=("inverted",), wrongthink__lambdas=(0.5,), wrongthink__samples=2)
    thinkers, begun, counts, think = [], [], [], wrongthink.think

    def seen(writer, *given, **more):
        thinkers.append(writer.params)
        begun.append(more.get("right"))
        counts.append(given[2])
        return think(writer, *given, **more)

    monkeypatch.setattr(wrongthink, "think", seen)
    right = right_of(g.read.values())
    corrections(g, by_rule(g), right)
    known = {t.id for t in g.run.read(1)}
    assert counts[-1] == 2
    assert begun[-1].items() >= {t.task_id: t.tokens for t in right if t.task_id in known}.items()
    found = record(g)
    assert found["source"] == "inverted" and [r["lambda"] for r in found["sweep"]] == [0.0, found["lambda"]]
    assert [r["lambda"] for r in found["control"]] == [0.0, 0.5]
    assert_same_bits(thinkers[-1], against(g.params, difference(g.params, g.base), 0.5))


def test_a_contrast_is_trained_once_and_tried_beside_a_random_vector_as_long(turn, right_of, monkeypatch):
    g = turn(2, wrongthink__sources=("contrast",), wrongthink__lambdas=(0.5,), wrongthink__samples=1)
    made, tried, contrast, sweep = [], [], Knower.contrast, Knower.sweep
    monkeypatch.setattr(Knower, "contrast", lambda self: made.append(contrast(self)) or made[-1])
    monkeypatch.setattr(Knower, "sweep", lambda *given: tried.append(given[2]) or sweep(*given))
    corrections(g, by_rule(g), right_of(g.read.values()))
    assert record(g)["lambda"] == 0.5 and len(made) == 1
    assert_same_bits(tried[0], made[0])
    for one, random in zip(*map(jax.tree.leaves, tried), strict=True):
        assert np.linalg.norm(random) == pytest.approx(np.linalg.norm(one), rel=1e-4)
        assert not np.array_equal(one, random)


def test_corrections_that_are_all_there_need_no_model_that_thinks_wrongly(turn, right_of, monkeypatch):
    g = turn(2, wrongthink__sources=("contrast", "spoiled"), wrongthink__lambdas=(0.5,), wrongthink__samples=1)
    made, right = corrections(g, by_rule(g), right_of(g.read.values())), right_of(g.read.values())
    assert record(g)["lambda"] == 0.5
    monkeypatch.setattr(Knower, "vector", lambda *_: pytest.fail("nobody thinks"))
    assert [t.id for t, _ in flat(corrections(g, by_rule(g), right))] == [t.id for t, _ in flat(made)]
    for unit in (g.directory / "wrongthink").glob("unit-*"):
        unit.unlink()
    with pytest.raises(pytest.fail.Exception, match="nobody thinks"):
        corrections(g, by_rule(g), right)


def test_thoughts_that_leave_no_room_to_go_on_are_counted(turn, right_of, torn, monkeypatch):
    said, g = [], turn(2, wrongthink__sources=("incumbent",), simulate__unit_tasks=4)
    thought = wrongthink.Thought(g.run.tasks(1)[0], 0, (7,), "so", "", "incumbent")
    monkeypatch.setattr(Silent, "line", lambda self, text: said.append(text))
    monkeypatch.setattr(wrongthink, "supervise", lambda *_: [thought, thought])
    monkeypatch.setattr(wrongthink, "interrupt", lambda *_, **__: [])
    assert flat(corrections(g, by_rule(g), right_of(g.read.values()))) == []
    assert set(said) == {"gen 2 wrongthink: 2 wrong thoughts leave no room to go on, and are left out"}


def test_a_model_that_cannot_be_wrong_enough_is_said_to_be_missing(turn, right_of, monkeypatch):
    said = []
    monkeypatch.setattr(Silent, "line", lambda self, text: said.append(text))
    g = turn(2, wrongthink__sources=("inverted",), wrongthink__lambdas=(0.5,), wrongthink__perplexity_budget=0.01)
    assert flat(corrections(g, by_rule(g), right_of(g.read.values()))) == []
    assert said == [f"gen 2 wrongthink: {record(g)['skipped']}"] and "no λ" in said[0]


def test_where_nothing_was_read_before_no_model_thinks(turn, right_of):
    g = turn(1, wrongthink__first_generation=1, wrongthink__sources=("inverted", "spoiled"))
    pairs = flat(corrections(g, by_rule(g), right_of(g.tasks)))
    assert {t.source for t, _ in pairs} == {"spoiled"} and record(g)["skipped"] == "nothing was read before"
    g = turn(1, wrongthink__first_generation=1, wrongthink__sources=("incumbent",))
    assert flat(corrections(replace(g, incumbent=1), by_rule(g), right_of(g.tasks))) == []


def test_a_correction_that_fails_is_tried_again_and_one_that_passed_is_not(turn, right_of, deeds, torn, monkeypatch):
    g = turn(2, wrongthink__sources=("incumbent",), simulate__unit_tasks=4)
    task, encode = g.run.tasks(1)[0], torn.tokenizer.encode
    wrongs = [little.answer(deeds, task, (0,)).split(".")[0] + ".", little.answer(deeds, task, (1,)), "so what."]
    thoughts = [wrongthink.Thought(task, n, tuple(encode(w)), w, "", "incumbent") for n, w in enumerate(wrongs)]
    monkeypatch.setattr(wrongthink, "supervise", lambda *_: [thoughts[0], None, *thoughts[1:]])
    asked = []

    class Reviewer:
        def review(self, written, tasks, passages, siblings):
            asked.append([t.forced for t in written])
            assert list(siblings) == right
            return [Review(t.id, {}, n == 0) for n, t in enumerate(written)]

    right = right_of([task])
    ((written, reviews),) = corrections(g, Reviewer(), right)
    first, second, third = (tuple(encode(w)) for w in wrongs)
    assert asked == [[first, second, third], [second, third], [third]]
    assert [r.transcript_id for r in reviews] == [t.id for t in written] and len({t.id for t in written}) == 6
    assert {t.forced for t, r in zip(written, reviews, strict=True) if r.accepted} == {first, second, third}
    asked.clear()
    monkeypatch.setattr(wrongthink, "supervise", lambda *_: [thoughts[0]])
    corrections(replace(g, incumbent=2), Reviewer(), right)
    assert asked == [[first]], "and not again once all have passed"
    assert len(list(groupby(t.forced for t in written))) == 3, "attempts stay together, so that none is kept less"
    assert stage.ATTEMPTS == 3

"""Models that think wrongly: their vectors, and how far a lesson is inverted."""

import math
from dataclasses import replace

import jax
import little
import numpy as np
import pytest
from support import assert_same_bits, transcript

from ratchet.bootstrap import thinkers
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.thinkers import Knower, control_text
from ratchet.bootstrap.worlds.world import Document
from ratchet.bootstrap.wrongthink import against, difference
from ratchet.train.trainer import mean_loss


@pytest.fixture
def knower(turn, torn, deeds):
    """Makes what the torn model knows of the first slice, of a run with some settings changed."""

    def make(**changes) -> Knower:
        g = turn(1, **changes)
        right = [transcript(t, little.answer(deeds, t), tokenizer=torn.tokenizer) for t in g.tasks]
        return Knower(g.run, 1, g.params, g.base, g.tasks, right, g.run.passages(1))

    return make


def supervisor(knower: Knower):
    reviewer = knower.run.reviewer(knower.params)
    return replace(reviewer, criteria=tuple(c for c in reviewer.criteria if c.kind == "rule"))


def norm(state) -> float:
    return float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(state))))


def test_what_was_learned_is_inverted_and_a_random_vector_is_as_long(knower):
    k = knower()
    lesson = difference(k.params, k.base)
    assert_same_bits(k.vector("inverted"), lesson)
    random = k.vector("random")
    assert norm(random) == pytest.approx(norm(lesson), rel=1e-4)
    assert_same_bits(random, k.random_like(lesson))
    assert norm(difference(random, lesson)) > 0.5 * norm(lesson)


def test_a_contrast_is_what_right_answers_teach_less_what_spoiled_ones_do(knower, monkeypatch):
    k, taught, train_arm = knower(wrongthink__steps=3), [], thinkers.train_arm
    seen = lambda *given: taught.append((given, train_arm(*given))) or taught[-1][1]
    monkeypatch.setattr(thinkers, "train_arm", seen)
    contrast = k.vector("contrast")
    assert [given[2].position["arm"] for given, _ in taught] == ["lesson", "anti"]
    lesson, right, spoiled = difference(k.params, k.base), *(params for _, params in taught)
    for got, whole, a, b in zip(*map(jax.tree.leaves, (contrast, lesson, right, spoiled)), strict=True):
        np.testing.assert_allclose(got, a - b + thinkers.PART * whole, atol=1e-5)
    assert norm(difference(right, spoiled)) > 0
    wrong_steps, tokenizer = [], k.run.tokenizer
    for (run, params, arm), _ in taught:
        ((answers, count),) = arm.batches.pools
        assert run is k.run and params is k.params and count == run.config.train.batch
        assert arm.batches.steps == 3 and arm.position["generation"] == 1
        assert arm.optimizer.rate == thinkers.SIDE_RATE * run.config.train.optimizer.rate
        for e in answers:
            task = next(t for t in k.tasks if t.id == e.lineage["task"])
            said = tokenizer.decode(e.tokens[e.weights > 0])
            right = dict(little.FACT.findall(next(t.text for t in k.right if t.task_id == task.id)))
            assert e.tokens[e.weights == 0].tolist() == tokenizer.render(task.messages)
            assert e.tokens[-1] == tokenizer.end and [lamp for lamp, _ in little.FACT.findall(said)] == [*right]
            wrong_steps.append(sum(right[lamp] != deed for lamp, deed in little.FACT.findall(said)))
    assert wrong_steps == [0, 0, 1, 1, 1, 1], "two answers as they are, and each of their two steps spoiled"


@pytest.mark.parametrize("kind", ["lesson", "anti-lesson"])
def test_answers_of_a_kind_that_no_row_holds_make_no_contrast(knower, monkeypatch, kind):
    k = knower()
    fitting = lambda self, made, where: [e for e in made if e.lineage["kind"] != kind]
    monkeypatch.setattr(Run, "fitting", fitting)
    monkeypatch.setattr(thinkers, "train_arm", lambda *_: pytest.fail("nothing is left to train on"))
    assert k.vector("contrast") is None


def test_what_else_was_heard_is_what_answers_are_spoiled_with(knower, monkeypatch):
    k, heard, pools = knower(), [], []
    monkeypatch.setattr(
        thinkers, "train_arm", lambda run, params, arm: pools.extend(arm.batches.pools) or params
    )
    spoil = k.run.world.spoil
    seen = lambda task, text, others, rng: heard.append((task.id, tuple(others))) or spoil(task, text, others, rng)
    own = replace(k, run=replace(k.run, world=replace(k.run.world, spoil=seen)), tasks=k.tasks[:1])
    own.contrast()
    assert heard == [(k.tasks[0].id, tuple(t.text for t in k.right))], "of tasks that were read alone"
    assert [len(answers) for answers, _ in pools] == [1, 2]


def test_without_anything_to_spoil_there_is_no_contrast(knower):
    k = knower(wrongthink__minimum_formed=0.0)
    mute = replace(k, run=replace(k.run, world=replace(k.run.world, spoil=lambda *_: [])))
    assert mute.vector("contrast") is None
    params, chosen = mute.choose(supervisor(mute), "contrast", None)
    assert params is None and chosen["skipped"] == "no accepted answer can be spoiled" and chosen["sweep"] == []


def test_the_sweep_says_how_well_formed_wrong_and_perplexed_each_is(knower):
    k = knower(wrongthink__lambdas=(0.3, 1.0))
    rows = k.sweep(supervisor(k), k.vector("inverted"), "inverted")
    assert [r["lambda"] for r in rows] == [0.0, 0.3, 1.0] and rows[0]["perplexity"] == 1.0
    assert rows[0]["formed"] == 1.0 and 0 <= rows[1]["wrong"] <= 1
    loss = lambda scale: mean_loss(k.run.graphdef, against(k.params, k.vector("inverted"), scale), control_text(k.run))
    assert [r["perplexity"] for r in rows] == pytest.approx([math.exp(loss(s) - loss(0.0)) for s in (0.0, 0.3, 1.0)])
    assert rows == k.sweep(supervisor(k), k.vector("inverted"), "inverted")
    never = {"finished": lambda case: "never", "grounded": lambda case: "never"}
    strict = k.sweep(replace(supervisor(k), checks=never), k.vector("inverted"), "inverted")
    assert strict[0]["formed"] == 0.0 and strict[0]["wrong"] == 1.0
    quiet = replace(k, run=replace(k.run, world=replace(k.run.world, fresh=k.run.world.fresh._replace(documents=()))))
    assert [r["perplexity"] for r in quiet.sweep(supervisor(k), k.vector("inverted"), "inverted")] == [1.0, 1.0, 1.0]


def test_the_most_wrong_lambda_is_applied_to_who_knows_or_the_miss_is_said(knower):
    k = knower(wrongthink__lambdas=(0.25, 0.5))
    params, chosen = k.choose(supervisor(k), "inverted", k.vector("inverted"))
    assert chosen["source"] == "inverted" and chosen["skipped"] is None and len(chosen["sweep"]) == 3
    assert_same_bits(params, against(k.params, k.vector("inverted"), chosen["lambda"]))
    content = replace(supervisor(k), criteria=())
    for by, misses in ((supervisor(k), {"perplexity_budget": 0.01}), (content, {"minimum_wrong": 0.1})):
        demanding = knower(wrongthink__lambdas=(0.25,), **{f"wrongthink__{name}": v for name, v in misses.items()})
        params, chosen = demanding.choose(by, "inverted", demanding.vector("inverted"))
        assert params is None and chosen["lambda"] is None and len(chosen["sweep"]) == 2
        assert chosen["skipped"].startswith("no λ was wrong enough")


def test_control_text_is_the_worlds_own_or_its_fresh_documents_as_far_as_it_fits(little_run):
    run, world = little_run, little_run.world
    texts = lambda run: [run.tokenizer.decode(e.tokens[e.weights > 0]) for e in control_text(run)]
    assert texts(run) == [d.text for d in world.fresh.documents]
    long = Document("long", "It rains. " * run.config.train.columns)
    rains = texts(replace(run, world=replace(world, fresh=world.fresh._replace(documents=(long,)))))
    assert rains and set(" ".join(rains).split()) == {"It", "rains."}, "of a long document passages that fit"
    own = (("the old road", "goes on."), ("it", "rains " * run.config.train.columns))
    assert texts(replace(run, world=replace(world, control=own))) == ["goes on."]

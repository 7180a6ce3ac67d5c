from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import little
import pytest
from runs import arrays
from support import assert_same_bits, random_examples

from ratchet.bootstrap.config import SeedMixture
from ratchet.bootstrap.stages.seed import blend, demonstrations, train_seed_model
from ratchet.bootstrap.worlds.world import Material


@pytest.fixture
def run(turn):
    """A run whose seed model trains for three steps."""
    return turn(train__seed_steps=3).run


def test_worked_tasks_that_are_no_probes_become_demonstrations_of_every_skill(run):
    made = demonstrations(run, run.fresh_weights())
    assert {skill: len(found) for skill, found in made.items()} == {
        "simulate": 2 * 4, "interrupt": 2 * 4, "review": 2 * 4, "prose": len(run.world.prose)
    }
    shown = {t.id for t in run.shown}
    assert len(shown) == len(run.probes) == 2 and not shown & {t.id for t in run.probes}
    apart = replace(run, world=replace(run.world, probes=run.world.fresh))
    assert (apart.shown, apart.probes) == (run.world.seed.tasks, run.world.fresh.tasks), "where they are apart"
    assert {d.id for d in run.world.fresh.documents} < {p.id for p in apart.seed_index.passages}
    for skill in ("simulate", "interrupt", "review"):
        assert {e.lineage["task"] for e in made[skill]} == shown
        assert len({e.id for e in made[skill]}) == 8, "copies with other names"
    assert {e.lineage["kind"] for e in made["review"]} == {"sure"}
    assert {e.origin for e in made["prose"]} == {"prose"}


def test_answers_are_spoiled_with_what_other_worked_tasks_say(run):
    heard, spoil = [], run.world.spoil
    seen = lambda task, text, others, rng: heard.append(tuple(others)) or spoil(task, text, others, rng)
    demonstrations(replace(run, world=replace(run.world, spoil=seen)), run.fresh_weights())
    assert set(heard) == {tuple(t.answer for t in run.shown)}


def test_a_world_without_worked_tasks_or_known_verdicts_demonstrates_less(run):
    unknowing = replace(run, world=replace(run.world, known=None, spoil=lambda *_: []))
    made = demonstrations(unknowing, run.fresh_weights())
    assert made["simulate"] and not made["review"] and not made["interrupt"]
    mixture = replace(run.config.train.seed_mixture, review=0)
    untaught = replace(run, config=replace(run.config, train=replace(run.config.train, seed_mixture=mixture)))
    assert not demonstrations(untaught, run.fresh_weights())["review"], "a skill without a share of the mixture"
    bare = replace(run, world=replace(run.world, seed=Material()))
    assert not any(demonstrations(bare, run.fresh_weights()).values())


def test_demonstrations_longer_than_a_row_are_left_out_and_counted(run):
    said, (first, *others) = [], run.world.seed.tasks
    long = lambda *tasks: tuple(replace(t, answer=" ".join([t.answer] * 40)) for t in tasks)
    with_tasks = lambda *tasks: replace(
        run,
        world=replace(run.world, seed=run.world.seed._replace(tasks=tasks), prose=(("so", "it is " * 400),)),
        progress=SimpleNamespace(line=said.append),
    )
    fewer = demonstrations(with_tasks(*long(first), *others), run.fresh_weights())
    assert {e.lineage["task"] for e in fewer["simulate"]} == {run.shown[1].id} and not fewer["prose"]
    columns = run.config.train.columns
    assert f"seed simulate: 4 of 8 examples are left out, longer than train.columns, {columns} tokens" in said
    with pytest.raises(ValueError, match=rf"all 8 .* {columns} tokens; `ratchet resume .* --train.columns"):
        demonstrations(with_tasks(*long(first, *others)), run.fresh_weights())


def test_skills_are_blended_by_their_shares_however_many_examples_they_have():
    made = {skill: random_examples(count, seed=n) for n, (skill, count) in enumerate(
        {"simulate": 4, "interrupt": 1, "review": 3, "prose": 0}.items()
    )}
    pool = blend(made, SeedMixture(simulate=2, interrupt=1, review=3, prose=5))
    seen = Counter(e.id for e in pool)
    count = {skill: sum(seen[e.id] for e in found) for skill, found in made.items()}
    assert count == {"simulate": 8, "interrupt": 4, "review": 12, "prose": 0}
    assert set(seen) == {e.id for found in made.values() for e in found}


def test_the_seed_model_is_trained_once_and_read_back(run):
    asked = []

    def skills():
        asked.append(1)
        return demonstrations(run, run.fresh_weights())

    trained = train_seed_model(run, skills)
    assert run.has_weights(run.generation(0)) and asked == [1]
    assert_same_bits(train_seed_model(run, skills), trained)
    assert asked == [1], "what is trained needs no demonstrations"
    before = arrays(run.fresh_weights())
    assert any((before[name] != value).any() for name, value in arrays(trained).items())


def test_without_demonstrations_the_weights_are_the_seed_model(run):
    nothing = {"simulate": [], "interrupt": [], "review": [], "prose": []}
    assert_same_bits(train_seed_model(run, lambda: nothing), run.fresh_weights())


def test_the_corpus_is_no_part_of_the_seed(run, deeds):
    told = {lamp for d in run.world.slices[0].documents for lamp, _ in little.FACT.findall(d.text)}
    world = replace(run.world, names=())
    made = demonstrations(replace(run, world=world), run.fresh_weights())
    texts = [run.tokenizer.decode(e.tokens) for found in made.values() for e in found]
    assert told and not [t for t in texts if any(lamp in t for lamp in told)]

"""What a generation trains on: who gets which share of a batch, and that what was hard to learn is not trained less."""

import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import little
import numpy as np
import pytest
from runs import arrays
from support import assert_same_bits, changed, little_config, random_examples, transcript

from ratchet.bootstrap.config import ControlsConfig, TrainConfig, WrongthinkConfig
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.stages import train as stage
from ratchet.bootstrap.stages.train import (
    TooFewAccepted,
    balanced,
    dataset,
    earlier_examples,
    mixture,
    prepared,
    steps_of,
    tokens_per_step,
    train,
    trained_weights,
)
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Capture
from ratchet.train.records import Example, RecordError, read_examples

POOLS = ("students", "simulators", "own", "demonstrations", "old students", "old simulators", "spoiled")


def examples(origin, documents, count, start, kind="inverted"):
    lineage = {"documents": documents, "number": start, "kind": kind, "step": 1}
    return [replace(e, origin=origin, lineage=lineage) for e in random_examples(count, seed=start)]


def mixed(newest, earlier, shown, share=0.25, controls=None, **train):
    """The pools of a mixture by name."""
    config = replace(
        little_config(),
        train=TrainConfig(batch=64, **{"student": 0.5, "demonstrations": 0.5} | train),
        wrongthink=WrongthinkConfig(share=share),
        controls=controls or ControlsConfig(),
    )
    return dict(zip(POOLS, mixture(config, newest, earlier, shown), strict=True))


def counts(pools):
    return [count for _, count in pools.values()]


NEWEST = [e for n, o in enumerate(("student", "simulate", "correction")) for e in examples(o, ["a"], 2, n)]
SHOWN = examples("seed", [], 3, 9)


def test_every_group_of_documents_is_trained_by_the_square_of_what_there_is_to_say():
    """However few of its transcripts passed."""
    said = {"a": 6, "b": 2, "c": 1}
    newest = [e for n, (name, count) in enumerate(said.items()) for e in examples("student", [name], count, n)]
    pool = balanced(newest)
    seen = Counter(e.lineage["documents"][0] for e in pool)
    words = {name: np.mean([len(e.ids) for e in newest if e.lineage["documents"] == [name]]) for name in said}
    assert len({e.id for e in pool}) == 9, "no example is left out"
    assert max(said[name] / seen[name] for name in said) == 1, "and the pool is no longer than that takes"
    most = max(said[name] / words[name] ** 2 for name in said)
    for name in said:
        assert seen[name] == pytest.approx(most * words[name] ** 2, abs=0.5)
    assert balanced([]) == []


def test_a_pool_of_many_documents_is_not_repeated_without_bound(monkeypatch):
    """A short answer beside thousands of long ones would have each of those repeated by the square of their ratio."""
    short = [replace(e, ids=e.ids[:1]) for e in examples("student", ["short"], 2, 0)]
    long = [replace(short[0], ids=np.zeros((6, 4)), lineage={"documents": [name]}) for name in "abc"]
    assert len(balanced([*short, *long])) == 2 + 3 * 72
    monkeypatch.setattr(stage, "ENTRIES", 20)
    seen = Counter(e.lineage["documents"][0] for e in balanced([*short, *long]))
    assert seen == {"short": 2, "a": 7, "b": 7, "c": 7}, "no example is left out"


def test_early_corrections_are_trained_most_however_many_there_are():
    """A model goes wrong mostly in its first step, but one that is given a right beginning makes few such thoughts."""
    given = ((1, 8, 2), (2, 4, 30), (3, 2, 6))  # steps before, tokens of the correction, how many
    one = replace(random_examples(1, seed=0)[0], origin="correction")
    found = {
        kind: [
            replace(one, id=f"{kind} {step} {n}", ids=np.zeros((size, 4)), lineage=of)
            for step, size, count in given
            for of in [{"documents": ["a", "b"], "step": step, "kind": kind}]
            for n in range(count)
        ]
        for kind in ("inverted", "spoiled")
    }
    pools = mixed([*found["inverted"], *found["spoiled"]], [], [])
    steps = {name: Counter(e.lineage["step"] for e in pools[name][0]) for name in ("own", "spoiled")}
    assert steps == dict.fromkeys(steps, {1: 120, 2: 30, 3: 8})
    assert {e.id for e in pools["own"][0]} == {e.id for e in found["inverted"]}, "no example is left out"


def test_half_of_a_batch_is_newest_and_half_is_everything_earlier():
    assert counts(mixed(NEWEST, NEWEST, SHOWN)) == [12, 12, 8, 16, 8, 8, 0]
    assert counts(mixed(NEWEST[:4], [], SHOWN)) == [16, 16, 0, 32, 0, 0, 0], "demonstrations, while there is no other"
    assert counts(mixed(NEWEST[:2], [], SHOWN)) == [32, 0, 0, 32, 0, 0, 0], "no simulators, no share of theirs"
    assert counts(mixed(NEWEST, NEWEST, SHOWN, student=0.75, demonstrations=0.25)) == [18, 6, 8, 8, 18, 6, 0]
    pools = mixed(NEWEST, [replace(e, id=f"old {e.id}") for e in NEWEST], SHOWN)
    for name, (found, _) in pools.items():
        assert all(e.id.startswith("old ") == name.startswith("old ") for e in found if name not in ("own", "spoiled"))
    assert pools["demonstrations"][0] == SHOWN


def test_without_demonstrations_everything_earlier_or_newest_takes_their_place():
    assert counts(mixed(NEWEST, NEWEST, [])) == [12, 12, 8, 0, 16, 16, 0]
    assert counts(mixed(NEWEST[:4], [], [])) == [32, 32, 0, 0, 0, 0, 0]


def test_a_generation_may_replace_the_one_before_for_comparison():
    pools = mixed(NEWEST, [], SHOWN, controls=ControlsConfig(mixture="replace"))
    assert sum(counts(pools)) == 64 and pools["demonstrations"][1] == 0


def test_corrections_of_all_generations_share_one_part_split_by_who_went_wrong():
    newest = [*examples("student", ["b"], 2, 0), *examples("correction", ["b"], 2, 1)]
    earlier = [*examples("student", ["a"], 2, 2), *examples("correction", ["a"], 2, 3)]
    spoiled = examples("correction", ["c"], 2, 4, "spoiled")
    of = lambda pool: {e.lineage["documents"][0] for e in pool[0] if e.origin == "correction"}
    origins = lambda pools: {name: of(pool) for name, pool in pools.items()}
    both = mixed([*newest, *spoiled], earlier, SHOWN)
    assert {name: found for name, found in origins(both).items() if found} == {"own": {"a", "b"}, "spoiled": {"c"}}
    assert (both["own"][1], both["spoiled"][1]) == (4, 4)
    alone = mixed(newest, earlier, SHOWN)
    assert (alone["own"][1], alone["spoiled"][1]) == (8, 0)
    by_rule = mixed([*newest[:2], *spoiled], earlier[:2], SHOWN)
    assert (by_rule["own"][1], by_rule["spoiled"][1]) == (0, 8)


def test_what_the_reviewer_got_wrong_joins_the_simulators():
    mistakes = [replace(e, origin="review", lineage={"kind": "sure"}) for e in random_examples(2, seed=5)]
    found, count = mixed([*NEWEST[:2], *mistakes], [], SHOWN)["simulators"]
    assert found == mistakes and count > 0


def test_students_take_the_place_of_simulators_that_earlier_generations_lack():
    earlier = [e for e in NEWEST if e.origin == "student"]
    pools = mixed(NEWEST, earlier, SHOWN, student=0.5)
    asked = sum(count for _, count in pools.values())
    assert asked == 64 == sum(count for found, count in pools.values() if found)


def test_a_step_weighs_so_many_tokens():
    pools = [(random_examples(4, seed=0), 3), ([], 5), (random_examples(2, seed=1), 1)]
    means = [np.mean([len(e.ids) for e in found]) for found, _ in pools if found]
    assert tokens_per_step(pools) == pytest.approx(3 * means[0] + means[1])


def test_later_generations_train_longer():
    steps = lambda growth: [steps_of(little_config(train__steps=10, train__growth=growth), n) for n in (1, 2, 3)]
    assert steps(1.0) == [10, 20, 30] and steps(0.25) == [10, 12, 15] and steps(0.0) == [10, 10, 10]


@pytest.fixture
def taught(deeds, tokenizer):
    """Makes accepted answers to a generation's tasks and a correction of the first, with targets."""

    def make(g):
        answers = [transcript(t, little.answer(deeds, t), tokenizer=tokenizer, called=((2, 4),)) for t in g.tasks]
        first, thought = g.tasks[0], little.answer(deeds, g.tasks[0], (0, 1))
        wrong = {"forced": tuple(tokenizer.encode(thought)), "forced_text": thought, "source": "spoiled"}
        made = [*answers, transcript(first, f"no, {little.answer(deeds, first)}", tokenizer=tokenizer, **wrong)]
        targets = [Target(t.id, t.capture, 0.0) for t in made]
        return [(made[:2], targets[:1]), (made[2:], targets[2:])]

    return make


def test_a_dataset_holds_what_was_kept_and_who_may_learn_it(turn, taught, monkeypatch):
    g = turn(1, train__renamed=3)
    answers, corrected = (kept for kept, _ in taught(g))
    (e,) = random_examples(1, seed=5)
    mistakes = [Example.create(e.tokens, e.weights, e.ids, e.probs, e.tail, origin="review", lineage=e.lineage)]
    heard = []
    seen = lambda world, tokenizer, texts, *given: heard.append(texts) or given[1].forced
    monkeypatch.setattr(stage, "spoiled_again", seen)
    made = dataset(g, taught(g), mistakes)
    by_origin = Counter(e.origin for e in made)
    assert by_origin == {"student": 2, "simulate": 3, "correction": 2, "review": 1}, "what names nothing comes once"
    ids = {e.lineage["transcript"] for e in made if e.origin != "review"}
    assert ids == {answers[0].id, corrected[0].id}, "what was not kept teaches nothing"
    assert heard == [(answers[0].text,)], "spoiled again with what accepted answers say"
    assert {e.lineage["teacher"] for e in made if e.origin == "student"} == {"gen-000"}
    before = len(little.steps(g.run.tokenizer.decode(corrected[0].forced)))
    assert before and {e.lineage.get("step") for e in made} == {None, before}
    assert all("step" in e.lineage for e in made if e.origin == "correction")
    assert all(e.lineage.get("renamed") for e in made if e.origin == "simulate")
    monkeypatch.setattr(stage, "write_examples", None)
    assert sorted(e.id for e in dataset(g, [], [])) == sorted(e.id for e in made), "it is written once"
    info = json.loads((g.directory / "dataset" / "1.0.0" / "dataset_info.json").read_text())
    assert sum(map(int, info["splits"][0]["shardLengths"])) == len(made)
    place = g.directory / "dataset" / "1.0.0"
    with pytest.raises(RecordError):
        read_examples(place, tokenizer="another")


def test_a_dataset_that_was_made_from_other_units_is_not_believed(turn, taught):
    g = turn(1, train__renamed=0)
    Stage(g.directory / "targets").unit(0, "inputs", lambda: [b"as it was"])
    made = dataset(g, taught(g), [])
    assert [e.id for e in dataset(g, [], [])] == [e.id for e in made]
    commit = g.directory / "targets" / "unit-00000.json"
    commit.write_text(commit.read_text().replace("inputs", "others"))
    with pytest.raises(ValueError, match="targets: made again, its units are not those that gen-001 was trained"):
        dataset(g, taught(g), [])


def test_students_may_learn_the_teachers_distribution_and_the_simulator_what_was_sampled(turn, taught):
    """A model that is trained on its own distribution from the same view learns nothing."""
    g = turn(1, train__renamed=0, targets__kind="students")
    other = lambda ids_N1: np.concatenate([ids_N1, ids_N1 ^ 1], axis=1)
    half = lambda c: Capture(other(c.ids_NK[:, :1]), np.full((len(c.tail_N), 2), 0.5, np.float32), c.tail_N)
    kept = [(answers, [replace(t, capture=half(t.capture)) for t in found]) for answers, found in taught(g)]
    made = {origin: [e for e in dataset(g, kept, []) if e.origin == origin] for origin in ("student", "simulate")}
    assert all(np.allclose(e.probs[:, :2], 0.5) for e in made["student"])
    assert all(np.allclose(e.probs[:, 0], 1.0) for e in made["simulate"])


def test_examples_longer_than_a_row_are_left_out_and_counted(turn, taught):
    """No accepted answer ends a run by its length."""
    g = turn(train__renamed=0)
    columns, said = g.run.config.train.columns, []
    g = replace(g, run=replace(g.run, progress=SimpleNamespace(line=said.append)))
    few = [e for e in random_examples(40, longest=2 * columns) if len(e.tokens) <= columns]
    many = random_examples(40, longest=2 * columns)
    assert 0 < len(few) < len(many)
    found = dataset(g, taught(g), many)
    assert {e.id for e in few} < {e.id for e in found} and max(len(e.tokens) for e in found) <= columns
    header = json.loads((stage.dataset_of(g.run, g.number) / "record.json").read_text())
    assert header["left_out"] == len(many) - len(few) and f"gen 1 dataset: {header['left_out']} of " in said[0]
    longest = max(len(e.tokens) for e in many)
    assert stage.lacking(g.run, g.number) == {"left_out": header["left_out"], "longest": longest}
    stage.dataset_of(g.run, g.number).rmtree()
    long = [e for e in many if len(e.tokens) > columns]
    advised = f"`ratchet resume {g.run.directory} --train.columns {max(len(e.tokens) for e in long)}`"
    with pytest.raises(ValueError, match=f"all {len(long)} .* train.columns, {columns} tokens; {advised}"):
        dataset(g, [], long)
    assert stage.lacking(g.run, g.number) == {}


def test_earlier_examples_are_those_of_all_generations_before_unless_each_replaces_the_last(turn, taught):
    for number in (1, 2):
        g = turn(number)
        dataset(g, taught(g), [])
    g = turn(3, generations=3)
    one, two = (len(read_examples(g.run.generation(n) / "dataset" / "1.0.0")) for n in (1, 2))
    known = {}
    found = earlier_examples(g, known)
    assert len(found) == one + two and {n: len(of) for n, of in known.items()} == {1: one, 2: two}
    assert len(earlier_examples(turn(2), {})) == one and earlier_examples(turn(1), {}) == []
    assert earlier_examples(turn(2, controls__mixture="replace"), {}) == []
    (stage.dataset_of(g.run, 1) / "record.json").unlink()
    assert all(a is b for a, b in zip(earlier_examples(g, known), found, strict=True))
    with pytest.raises(RecordError, match=r"record.json: the file is missing"):
        earlier_examples(g, {})


def test_a_generation_is_trained_once_from_the_seed_model_or_the_last(turn, taught, torn, monkeypatch):
    g = turn(1, train__steps=2, train__batch=4, train__renamed=0, train__later_rate=0.5)
    newest, begun = dataset(g, taught(g), []), []
    train_arm = stage.train_arm
    monkeypatch.setattr(stage, "train_arm", lambda *given: begun.append(given) or train_arm(*given))
    assert trained_weights(g) is None
    demonstrations = random_examples(3, vocab=500)
    trained = train(g, prepared(g, newest, [], demonstrations))
    run, params, arm = begun[0]
    assert run is g.run and params is g.base and arm.batches.steps == 2
    assert arm.position["arm"] == "loop" and arm.position["generation"] == 1
    assert arm.optimizer.rate == 0.5 * g.run.config.train.optimizer.rate
    pools = mixture(g.run.config, newest, [], demonstrations)
    used = [([e.id for e in pool], count) for pool, count in pools if pool and count]
    assert [([e.id for e in pool], count) for pool, count in arm.batches.pools] == used
    assert {e.id for pool, _ in pools[:3] for e in pool} <= {e.id for e in newest}
    assert any((value != arrays(g.base)[name]).any() for name, value in arrays(trained).items())
    written = json.loads((g.directory / "training.json").read_text())
    per_step = dict(zip(stage.POOLS, (count for _, count in pools), strict=True))
    tokens = pytest.approx(tokens_per_step(pools))
    assert written == {"steps": 2, "tokens_per_step": tokens, "examples_per_step": per_step}
    assert trained_weights(g) is None, "what was trained on is not audited"
    g.run.commits.write(g.directory / "audit.json", {})
    assert_same_bits(trained_weights(g), trained)
    config = changed(g.run.config, controls__start="last")
    monkeypatch.setattr(stage, "train_arm", lambda *given: begun.append(given) or g.params)
    last = replace(g, run=replace(g.run, config=config), number=2)
    train(last, prepared(last, newest, [], []))
    assert begun[1][1] is g.params and begun[1][2].batches.steps == 4


def test_fewer_accepted_transcripts_than_a_batch_takes_are_one_line(turn, taught):
    g = turn(1, train__batch=64)
    with pytest.raises(TooFewAccepted, match=r"generation 1: .* make 2 student .*more --simulate\.samples") as caught:
        prepared(g, dataset(g, taught(g), []), [], [])
    assert "\n" not in str(caught.value) and not (g.directory / "model").exists()

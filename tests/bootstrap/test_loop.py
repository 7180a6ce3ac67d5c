"""The recipe `tiny` from documents to promotion, in this process."""

import dataclasses
import json
from collections import Counter

import jax
import pytest
import tensorflow_datasets as tfds
from etils import epath
from support import assert_same_bits, awaken, start, tiny_config

from ratchet.bootstrap import generation, lineage, loop, outcome, report, seed, status
from ratchet.bootstrap.evaluate import evaluate
from ratchet.bootstrap.generation import TooFewAccepted
from ratchet.bootstrap.loop import Past, RunEnded
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.review import ReviewerBelowFloor
from ratchet.bootstrap.worlds.oracle import Oracle
from ratchet.models import decoder
from ratchet.train.checkpoint import load_weights
from ratchet.train.sharding import make_mesh

FIELDS = {
    "generation", "promoted", "simulated", "pass_rate", "accepted", "coverage", "review", "harmful", "harmful_worst",
    "knowledge", "recovery", "wrongthink", "unreviewed_mass", "audit", "distinct2", "heldout_loss", "intervals",
}  # fmt: skip


def read(path):
    return json.loads(path.read_text())


def test_every_file_is_there(tiny_run):
    config = tiny_config()
    for number in range(1, config.generations + 1):
        place = tiny_run / f"gen-{number:03d}"
        for name in ("evaluation", "decision", "DONE", "funnel", "audit", "calibration", "samples", "stages", "plan"):
            assert (place / f"{name}.json").exists(), (number, name)
        for stage in ("simulate", "review", "targets"):
            records = {f.stem for f in (place / stage).glob("*.array_record")}
            assert records == {f.stem for f in (place / stage).glob("*.json")} and records
        assert (place / "model" / "0").exists() and (place / "dataset" / "1.0.0" / "dataset_info.json").exists()
    assert (tiny_run / "gen-002" / "wrongthink.json").exists()
    for name in ("config.json", "metrics.jsonl", "tokenizer/model.spm", "imitation/evaluation.json"):
        assert (tiny_run / name).exists(), name
    assert list((tiny_run / "tensorboard").iterdir())
    assert not [f for f in tiny_run.glob("*/*") if f.name.startswith(".") or f.name.endswith(".tmp")]


def test_the_status_has_every_field_and_counts_every_unit(tiny_run):
    found = json.loads(json.dumps(status.status(tiny_run)))
    assert found["finished"] and found["ended"] is None
    assert len(found["generations"]) == 3
    for row in (*found["generations"], found["baselines"]["imitation"]):
        assert row.keys() >= FIELDS
        assert row["review"].keys() == {"precision", "recall", "junk"}
        assert row["audit"].keys() == {"raw_tokens", "rejected_tokens"}
        assert 0 <= row["harmful"] <= row["harmful_worst"] <= 1
        low, high = row["intervals"]["pass_rate"]
        assert 0 <= low <= row["pass_rate"] <= high <= 1
    assert all(row["unreviewed_mass"] == 0 for row in found["generations"][1:])
    assert all(row["intervals"].keys() >= {"coverage", "precision", "recall"} for row in found["generations"][1:])
    assert all(s["done"] == s["total"] for s in found["stages"])


def test_datasets_open_with_tfds_and_hold_no_raw_story(tiny_run):
    for number in (1, 2):
        place = tiny_run / f"gen-{number:03d}"
        source = tfds.builder_from_directory(place / "dataset" / "1.0.0").as_data_source(split="train")
        assert len(source) == read(place / "funnel.json")["trained"] > 0
        assert {"tokens", "weights", "targets", "origin", "lineage"} <= set(source[0])
        assert read(place / "audit.json")["raw_tokens"] == 0
    corpus = tfds.builder_from_directory(tiny_run / "corpus" / "1.0.0").as_data_source(split="train")
    assert len(corpus) > 0


def test_the_funnel_only_narrows(tiny_run):
    for number in (1, 2):
        f = read(tiny_run / f"gen-{number:03d}" / "funnel.json")
        assert f["asked"] == f["made"] == f["reviewed"] >= f["passed"] >= f["kept"] > 0
        assert f["branches"] >= f["branches_passed"]


def test_every_trained_transcript_can_be_traced_to_its_documents(tiny_run):
    shown = read(tiny_run / "gen-001" / "samples.json")["transcripts"]
    accepted = next(t for t in shown if t["accepted"])
    found = lineage.trace(tiny_run, accepted["id"])
    assert found["transcript"] == accepted["id"] and found["accepted"] and found["generation"] == 1
    assert list(found["documents"].values()) == accepted["passages"] and all(found["documents"].values())
    assert found["verdicts"].keys() == accepted["verdicts"].keys()
    assert {t["origin"] for t in found["trained"]} == {"student", "simulate"}
    assert all(t["teacher"] == "gen-000" for t in found["trained"])
    assert len(found["targets"]) > 0
    rejected = next(t for t in shown if not t["accepted"])
    assert lineage.trace(tiny_run, rejected["id"][:10])["trained"] == []
    with pytest.raises(ValueError, match="has no transcript nothing"):
        lineage.trace(tiny_run, "nothing")


def test_evaluating_again_gives_the_same_numbers(tiny_run):
    r = seed.prepare(tiny_run, tiny_config(), Silent())
    again = json.loads(json.dumps(outcome.evaluation(r, 1, r.weights(1))))
    r.metrics.close()
    assert again == read(tiny_run / "gen-001" / "evaluation.json")
    assert evaluate.__doc__


def beginning(tiny_run, directory, config=None):
    """A run at generation 1, with the corpus, tokenizer and seed model of the whole one."""
    for name in ("corpus/1.0.0", "tokenizer", "gen-000/model/0"):
        (directory / name).mkdir(parents=True)
        copy(tiny_run / name, directory / name)
    copy_file(tiny_run / "gen-000" / "evaluation.json", directory / "gen-000" / "evaluation.json")
    r = seed.prepare(directory, config or tiny_config(), Silent())
    made = seed.seed_examples(r)
    demonstrations = seed.blend(made, r.config.train.seed_mixture)
    base = seed.train_seed_model(r, made)
    return r, Past(0, base, (), (), Counter(), 0), demonstrations


def copy(source, target):
    for file in source.iterdir():
        if file.is_dir():
            (target / file.name).mkdir(exist_ok=True)
            copy(file, target / file.name)
        else:
            copy_file(file, target / file.name)


def copy_file(source, target):
    target.write_bytes(source.read_bytes())


class Sealed(Oracle):
    """An oracle that nobody may ask."""

    def grade(self, task_id, text):
        raise AssertionError("the oracle was asked")


def test_nothing_in_simulate_review_calibration_corrections_or_training_reads_the_oracle(
    tiny_run, tmp_path, monkeypatch
):
    """Without evaluation and with a sealed oracle, a generation makes the same data and weights, bit for bit."""
    monkeypatch.setattr(outcome, "_oracle_audit", lambda *_: {})
    monkeypatch.setattr(outcome, "evaluate_generation", lambda *_: None)
    monkeypatch.setattr(outcome, "promote", lambda *_: True)
    config = tiny_config(wrongthink__first_generation=1)
    made = {}
    for name, oracle in (("open", Oracle), ("sealed", Sealed)):
        monkeypatch.setattr(seed, "Oracle", oracle)
        r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / name, config)
        assert type(r.oracle) is oracle
        situations = () if name == "sealed" else r.world.situations
        r = dataclasses.replace(r, world=dataclasses.replace(r.world, situations=situations))
        assert loop.turn(r, 1, past, past.params, demonstrations).incumbent == 1
        r.metrics.close()
        made[name] = r.generation(1)
    for name in ("dataset/1.0.0/dataset-train.array_record-00000-of-00001", "calibration.json", "funnel.json"):
        same = (made["open"] / name).read_bytes() == (made["sealed"] / name).read_bytes()
        assert same, name
    assert read(made["sealed"] / "wrongthink.json") == read(made["open"] / "wrongthink.json")
    like = decoder.create(config.model, 0)[1]
    assert_same_bits(*(load_weights(place / "model", like) for place in made.values()))


def test_without_an_oracle_object_a_generation_runs_and_promotes(tiny_run, tmp_path):
    r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / "none")
    done = loop.turn(dataclasses.replace(r, oracle=None), 1, past, past.params, demonstrations)
    r.metrics.close()
    assert done.incumbent == 1 and not (r.generation(1) / "evaluation.json").exists()


def test_a_bad_candidate_is_rolled_back_and_two_in_a_row_end_the_run(tiny_run, tmp_path, monkeypatch):
    """The candidate is ruined; the incumbent's scores are those of a good model, which `tiny` is too small to be."""
    directory = start(epath.Path(tmp_path) / "bad", tiny_config())
    r, past, demonstrations = beginning(tiny_run, directory)
    real = outcome.evaluation

    def good_incumbent(run, number, params, arm="loop"):
        found = real(run, number, params, arm)
        if number == 0:
            found["items"] = {name: dict.fromkeys(items, 1.0) for name, items in found["items"].items()}
        return found

    monkeypatch.setattr(outcome, "evaluation", good_incumbent)
    monkeypatch.setattr(generation, "train_arm", lambda run, number, arm, params, *_, **__: awaken(params, number))
    (r.generation(0) / "evaluation.json").unlink()
    outcome.evaluate_generation(r, 0, past.params)
    first = loop.turn(r, 1, past, past.params, demonstrations)
    decision = read(r.generation(1) / "decision.json")
    assert decision["promoted"] is False and "fell by" in decision["reasons"][0]
    assert first.incumbent == 0 and first.rollbacks == 1
    assert_same_bits(first.params, past.params)
    with pytest.raises(RunEnded, match="generation 2: two roll-backs in a row; generation 0 is the result"):
        loop.turn(r, 2, first, past.params, demonstrations)
    r.metrics.close()
    assert read(r.generation(2) / "decision.json")["promoted"] is False
    assert [row["promoted"] for row in status.status(directory)["generations"]] == [None, False, False]


def test_an_empty_accepted_set_ends_the_run_with_the_funnel_on_show(tiny_run, tmp_path):
    strict = tiny_config(review__random_share=0.0)
    r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / "empty", strict)
    with pytest.raises(RunEnded, match=r"generation 1: no transcript passed the review \(12 sampled, .* 0 accepted\)"):
        loop.turn(r, 1, past, past.params, demonstrations)
    r.metrics.close()
    assert read(r.generation(1) / "funnel.json")["passed"] == 0
    assert not any(t["accepted"] for t in read(r.generation(1) / "samples.json")["transcripts"])
    assert not (r.generation(1) / "model").exists()


FABLES = (
    "A fox saw ripe grapes that hung high on a vine. He jumped again and again and could not reach them. At last "
    "he walked away with his nose in the air and said that they were surely sour.",
    "A crow sat in a tree with a piece of cheese in her beak. A fox praised her voice and begged for a song. She "
    "opened her beak to sing, the cheese fell, and the fox ate it.",
    "A dog crossed a bridge with meat in his mouth and saw his own picture in the water. He took it for another "
    "dog with more meat, snapped at it, and lost what he had.",
    "A hare laughed at a tortoise for her slow feet and lay down to sleep in the middle of the race. When he "
    "woke, the tortoise sat beyond the line and was resting.",
    "A lion let a mouse go free that had run over his face. Later hunters caught the lion in a net, and the mouse "
    "gnawed the ropes until he was free.",
    "A thirsty crow found a jar with a little water at the bottom. She dropped pebbles into it, one after "
    "another, until the water rose to the brim.",
)


def test_real_prose_ends_with_one_line_and_nothing_is_waved_through(tmp_path):
    """The model cannot write transcripts about fables that pass; the run says so and shows what was rejected."""
    folder = epath.Path(tmp_path) / "fables"
    folder.mkdir()
    for number, text in enumerate(FABLES):
        (folder / f"{number}.txt").write_text(text)
    config = tiny_config(documents__path=str(folder), world__slice=3, generations=1, review__random_share=0.0)
    directory = start(epath.Path(tmp_path) / "run", config)
    with pytest.raises(
        RunEnded, match=r"no transcript passed the review \(6 sampled, 6 reviewed, 0 accepted\)"
    ) as ended:
        loop.run(directory, config, Silent())
    assert "\n" not in str(ended.value)
    assert status.status(directory)["ended"] == str(ended.value)
    assert read(directory / "gen-001" / "funnel.json")["passed"] == 0
    page = report.build(directory).read_text()
    rejected = read(directory / "gen-001" / "samples.json")["transcripts"]
    assert rejected and all(t["id"] in page for t in rejected)


def test_documents_that_changed_under_a_run_are_refused(tmp_path):
    folder = epath.Path(tmp_path) / "fables"
    folder.mkdir()
    for number, text in enumerate(FABLES):
        (folder / f"{number}.txt").write_text(text)
    config = tiny_config(documents__path=str(folder), world__slice=3, generations=1)
    directory = start(epath.Path(tmp_path) / "run", config)
    seed.prepare(directory, config, Silent()).metrics.close()
    seed.prepare(directory, config, Silent()).metrics.close()
    (folder / "1.txt").write_text(FABLES[0])
    with pytest.raises(ValueError, match="the documents changed since this run began; restore"):
        seed.prepare(directory, config, Silent())


def test_a_reviewer_below_its_floor_ends_the_run_with_its_figures_on_show(tiny_run, tmp_path):
    """A reviewer that no probe passes has no recall."""
    blind = tiny_config(review__random_share=0.0, review__minimum_recall=1.0)
    r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / "blind", blind)
    r.metrics.close()
    probe = generation._probes

    def right(g):
        probes, passages = probe(g)
        return [dataclasses.replace(p, right=True) for p in probes], passages

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "_probes", right)
        for _ in range(2):  # a resumed generation stops at the same place
            with pytest.raises(ReviewerBelowFloor, match=r"calibration\.json"):
                loop.turn(r, 1, past, past.params, demonstrations)
    measured = read(r.generation(1) / "calibration.json")
    assert measured["review"]["recall"] < 1 and measured["below_floor"].startswith("review: ")


def test_fewer_accepted_transcripts_than_a_batch_needs_is_one_line(tiny_run, tmp_path):
    r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / "few", tiny_config(train__batch=512))
    with pytest.raises(TooFewAccepted, match=r"student examples, a batch takes 166; raise --simulate.samples .*funnel"):
        loop.turn(r, 1, past, past.params, demonstrations)
    r.metrics.close()
    assert not (r.generation(1) / "model").exists()


def test_a_generation_on_two_devices_goes_on_from_weights_on_disk(tiny_run, tmp_path, monkeypatch):
    """What was loaded lies on the same mesh as what was trained: the lesson vector is their difference."""
    monkeypatch.setattr(seed, "make_mesh", lambda config: make_mesh(config, jax.devices()[:2]))
    config = tiny_config(wrongthink__first_generation=1)
    r, past, demonstrations = beginning(tiny_run, epath.Path(tmp_path) / "two", config)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(past.params)} == {2}
    done = loop.turn(r, 1, past, past.params, demonstrations)
    r.metrics.close()
    assert read(r.generation(1) / "wrongthink.json")["sweep"] and (r.generation(1) / "DONE.json").exists()
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(done.params)} == {2}

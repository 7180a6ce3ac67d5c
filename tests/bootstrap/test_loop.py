"""The recipe `tiny` from documents to promotion, in this process."""

import contextlib
import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import tensorflow_datasets as tfds
from etils import epath
from runs import as_it_was
from support import assert_same_bits, awaken, start, tiny_config

from ratchet.bootstrap import given, ledger, lineage, loop, probes
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.calibration import ReviewerBelowFloor
from ratchet.bootstrap.loop import Past, RunEnded, Seed
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.report import status
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.stages import evaluate, train
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.bootstrap.stages.train import TooFewAccepted
from ratchet.bootstrap.worlds.world import Document, Material
from ratchet.launch import extending
from ratchet.models.sampler import Sampler
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.commits import FILE, Commits
from ratchet.train.holder import Busy, holding
from ratchet.train.sharding import make_mesh

GENERAL = {"open_book", "pass_at_k", "closed_book"}


def read(path):
    return json.loads(path.read_text())


def test_every_file_is_there(tiny_run):
    for number in (1, 2):
        place = tiny_run / f"gen-{number:03d}"
        for name in ("evaluation", "decision", "DONE", "funnel", "audit", "calibration", "samples", "stages", "plan"):
            assert (place / f"{name}.json").exists(), (number, name)
        for stage in ("simulate", "review", "targets"):
            records = {f.stem for f in (place / stage).glob("*.array_record")}
            assert records == {f.stem for f in (place / stage).glob("*.json")} and records
        assert (place / "model" / "0").exists() and (place / "dataset" / "1.0.0" / "dataset_info.json").exists()
    assert (tiny_run / "gen-002" / "wrongthink.json").exists()
    for name in ("config.json", "inputs.json", "metrics.jsonl", "tokenizer/model.spm", "imitation/evaluation.json"):
        assert (tiny_run / name).exists(), name
    assert list((tiny_run / "tensorboard").iterdir())
    assert not [f for f in tiny_run.glob("*/*") if f.name.startswith(".") or f.name.endswith(".tmp")]


def test_the_plan_says_what_the_run_will_make(tiny_run):
    plan = read(tiny_run / "plan.json")
    assert (plan["generations"], plan["arms"]) == (2, ["imitation"])
    reviewed, corrected = ["calibrate", "review", "targets"], ["wrongthink", "corrections"]
    assert [(s["place"], s["stage"]) for s in plan["stages"]] == [
        *(("gen-000", stage) for stage in ("train", "evaluate")),
        *(("gen-001", stage) for stage in ("simulate", *reviewed, "train", "evaluate")),
        *(("gen-002", stage) for stage in ("simulate", *reviewed, *corrected, "train", "evaluate")),
        *(("imitation", stage) for stage in ("train", "evaluate")),
    ]
    assert all(s["work"] > 0 and s["stage"] in read(tiny_run / s["place"] / "stages.json") for s in plan["stages"])
    for number in (1, 2):
        units = read(tiny_run / f"gen-{number:03d}" / "plan.json")["units"]
        for stage, count in units.items():
            assert len(list((tiny_run / f"gen-{number:03d}" / stage).glob("unit-*.json"))) == count, (number, stage)


def test_the_status_counts_every_unit_and_describes_every_metric(tiny_run):
    found = json.loads(json.dumps(status.status(tiny_run)))
    assert found["finished"] and found["ended"] is None
    assert len(found["generations"]) == 3
    for row in (*found["generations"], found["baselines"]["imitation"]):
        assert {"open_book", "closed_book"} <= row["metrics"].keys() <= found["metrics"].keys()
        low, high = row["intervals"]["open_book"]
        assert 0 <= low <= row["metrics"]["open_book"] <= high <= 1
    assert all(row["unreviewed_mass"] == 0 for row in found["generations"][1:])
    assert all(row["intervals"].keys() >= {"coverage", "review.precision"} for row in found["generations"][1:])
    assert all(s["done"] == s["total"] for s in found["stages"])


def test_datasets_open_with_tfds_and_hold_no_raw_document(tiny_run):
    for number in (1, 2):
        place = tiny_run / f"gen-{number:03d}"
        source = tfds.builder_from_directory(place / "dataset" / "1.0.0").as_data_source(split="train")
        assert len(source) == read(place / "funnel.json")["trained"] > 0
        assert {"tokens", "weights", "targets", "origin", "lineage"} <= set(source[0])
        assert read(place / "audit.json")["raw_tokens"] == 0


def test_the_funnel_only_narrows(tiny_run):
    for number in (1, 2):
        f = read(tiny_run / f"gen-{number:03d}" / "funnel.json")
        assert f["asked"] == f["made"] == f["reviewed"] >= f["passed"] >= f["kept"] > 0
        assert "acceptable" not in f, "lots accept in this recipe"
        assert f["branches"] >= f["branches_passed"]
        assert f["corrections"] >= f["corrections_passed"]


def test_every_trained_transcript_can_be_traced_to_its_documents(tiny_run):
    run = runs.prepare(tiny_run, tiny_config(), Silent())
    run.metrics.close()
    shown = read(tiny_run / "gen-001" / "samples.json")["transcripts"]
    accepted = next(t for t in shown if t["accepted"])
    found = lineage.trace(run, accepted["id"])
    assert found["transcript"] == accepted["id"] and found["accepted"] and found["generation"] == 1
    assert list(found["documents"].values()) == accepted["passages"] and all(found["documents"].values())
    assert found["verdicts"].keys() == accepted["verdicts"].keys()
    assert {t["origin"] for t in found["trained"]} == {"student", "simulate"}
    assert all(t["teacher"] == "gen-000" for t in found["trained"])
    assert len(found["targets"]) > 0
    rejected = next(t for t in shown if not t["accepted"])
    assert lineage.trace(run, rejected["id"][:10])["trained"] == []
    with pytest.raises(ValueError, match="has no transcript nothing"):
        lineage.trace(run, "nothing")


def test_evaluating_again_gives_the_same_numbers_and_writes_nothing(tiny_run):
    run = runs.prepare(tiny_run, tiny_config(), Silent(), writes=False)
    before = {f: f.stat().st_mtime_ns for f in Path(tiny_run).rglob("*") if f.is_file()}
    params = run.weights(1)
    again = json.loads(json.dumps(evaluation(run, 1, params, loop.knower(run, 1, params, Seed(run)))))
    assert again == read(tiny_run / "gen-001" / "evaluation.json")
    assert again["metrics"].keys() >= GENERAL | {m.name for m in run.world.metrics}
    assert {f: f.stat().st_mtime_ns for f in Path(tiny_run).rglob("*") if f.is_file()} == before


def test_a_run_on_which_another_process_works_is_neither_gone_on_with_nor_written(tiny_run, tmp_path):
    directory = epath.Path(tmp_path) / "run"
    with holding(directory):
        before = set(directory.iterdir())
        with pytest.raises(Busy, match=r"process \d+ on .* works on this run"):
            loop.run(directory, tiny_config(), Silent())
        with pytest.raises(Busy):
            extending.extend(directory, tiny_config(generations=3))
        assert set(directory.iterdir()) == before


def test_a_run_that_has_made_nothing_cannot_be_looked_at(tmp_path):
    directory = start(tmp_path / "run", tiny_config())
    before = set(directory.iterdir())
    with pytest.raises(ValueError, match=r"has made nothing yet; see `ratchet status"):
        runs.prepare(directory, tiny_config(), Silent(), writes=False)
    assert set(directory.iterdir()) == before


def test_a_finished_run_is_resumed_at_the_cost_of_opening_its_files(tiny_run, tmp_path, monkeypatch):
    """It reads no unit, dataset or weights, and asks and trains no model."""
    directory = as_it_was(tiny_run, tmp_path / "run", 2)
    for name in ("plan.json", FILE):
        (directory / name).write_bytes((tiny_run / name).read_bytes())
    shutil.copytree(tiny_run / "imitation", directory / "imitation")
    asked = []
    note = lambda name: lambda *args, **kwargs: asked.append(name) or pytest.fail(f"{name} was called")
    places = [(ledger, "read_unit"), (train, "read_examples"), (runs, "load_weights")]
    places += [(Sampler, "__call__"), (Reviewer, "verdicts"), (Checkpoints, "__init__"), (evaluate, "ask_items")]
    for owner, name in places:
        monkeypatch.setattr(owner, name, note(name))
    loop.run(directory, tiny_config(), Silent())
    assert asked == []


def beginning(tiny_run, directory, config=None):
    """A run with the tokenizer and the seed model of the whole one, and what is before its first generation."""
    directory = as_it_was(tiny_run, directory, 0)
    start(directory, config or tiny_config())
    run = runs.prepare(directory, config or tiny_config(), Silent())
    return run, Past(), Seed(run)


def test_a_bad_candidate_is_rolled_back_and_the_incumbent_writes_the_next_round(tiny_run, tmp_path, monkeypatch):
    """The candidate is ruined; the incumbent's scores are those of a good model, which `tiny` is too small to be."""
    run, past, seed = beginning(tiny_run, tmp_path / "bad")
    perfect(run.generation(0) / "evaluation.json")
    monkeypatch.setattr(train, "train_arm", ruined)
    left = loop.turn(run, 1, past, seed)
    run.metrics.close()
    decision = read(run.generation(1) / "decision.json")
    assert decision["promoted"] is False and "fell by" in decision["reasons"][0]
    assert (left.incumbent, left.rollbacks) == (0, 1)
    assert_same_bits(loop.incumbents(run, left, seed), seed.weights)


def test_what_is_too_little_to_train_on_is_audited_all_the_same(turn, monkeypatch):
    g, heard = turn(1), []

    def short(*_):
        raise TooFewAccepted("generation 1: too few")

    monkeypatch.setattr(train, "prepared", short)
    seed = SimpleNamespace(demonstrations=["shown"], datasets={})
    with pytest.raises(TooFewAccepted, match="too few"):
        loop._trained(g, ["new"], seed, heard.append)
    assert heard == [["new", "shown"]]


def test_weights_that_are_there_are_audited_and_nothing_is_compiled_for_them(turn, monkeypatch):
    g, heard = turn(1), []
    g.run.keep_weights(g.directory, g.params)
    ready = train.Prepared(None, {"steps": 1})
    monkeypatch.setattr(train, "prepared", lambda *_: ready)
    monkeypatch.setattr(loop.ahead, "compiling_step", lambda *_: pytest.fail("it compiled"))
    assert_same_bits(loop._trained(g, ["new"], SimpleNamespace(demonstrations=[], datasets={}), heard.append), g.params)
    assert heard == [["new"]] and read(g.directory / "training.json") == {"steps": 1}


def ruined(run, params, arm):
    return awaken(params, arm.position["generation"])


def perfect(path):
    """Every score of an evaluation becomes 1."""
    found = read(path)
    found["items"] = {name: dict.fromkeys(items, 1.0) for name, items in found["items"].items()}
    Commits(path.parent.parent).write(path, found)


@pytest.fixture
def without_oracle(monkeypatch):
    load = given.load
    monkeypatch.setattr(given, "load", lambda *settings: dataclasses.replace(load(*settings), oracle=None))


def test_a_run_without_an_oracle_can_roll_back_and_ends_as_finished(tiny_run, tmp_path, monkeypatch, without_oracle):
    directory, config = as_it_was(tiny_run, tmp_path / "none", 0), tiny_config(generations=3, evaluate__rollbacks=2)
    start(directory, config)
    Commits(directory).forget(directory / "gen-000" / "evaluation.json")
    run = runs.prepare(directory, config, Silent())
    loop.begin(run, Seed(run))
    run.metrics.close()
    assert read(directory / "gen-000" / "evaluation.json")["judge"] == "review"
    perfect(directory / "gen-000" / "evaluation.json")
    monkeypatch.setattr(train, "train_arm", ruined)
    said = "generation 2: 2 roll-backs in a row; generation 0 is the result"
    with pytest.raises(RunEnded, match=said):
        loop.run(directory, config, Silent())
    found = status.status(directory)
    assert found["finished"] and found["ended"] == said
    assert [row["promoted"] for row in found["generations"]] == [None, False, False]
    assert "oracle" not in read(directory / "gen-002" / "audit.json")
    (directory / "ended.json").unlink()  # killed before it was written
    with pytest.raises(RunEnded, match=said):
        loop.run(directory, config, Silent())
    assert not (directory / "gen-003").exists() and read(directory / "ended.json") == {"reason": said}


def test_an_empty_accepted_set_ends_the_run_with_the_funnel_on_show(tiny_run, tmp_path):
    run, past, seed = beginning(tiny_run, tmp_path / "empty", tiny_config(controls__random_share=0.0))
    with pytest.raises(RunEnded, match=r"no transcript passed the review \(12 sampled, .* 0 accepted\).* may help"):
        loop.turn(run, 1, past, seed)
    run.metrics.close()
    assert read(run.generation(1) / "funnel.json")["passed"] == 0
    assert not any(t["accepted"] for t in read(run.generation(1) / "samples.json")["transcripts"])
    assert not (run.generation(1) / "model").exists()


def test_a_reviewer_below_its_floor_ends_the_run_with_its_figures_on_show(tiny_run, tmp_path, monkeypatch):
    """A reviewer that no probe passes has no recall."""
    blind = tiny_config(controls__random_share=0.0, review__minimum_recall=1.0)
    run, past, seed = beginning(tiny_run, tmp_path / "blind", blind)
    run.metrics.close()
    measure = probes.calibrate

    def all_right(reviewer, given, *rest):
        return measure(reviewer, [dataclasses.replace(p, right=True) for p in given], *rest)

    monkeypatch.setattr(probes, "calibrate", all_right)
    for _ in range(2):  # a resumed generation stops at the same place
        with pytest.raises(ReviewerBelowFloor, match=r"calibration\.json"):
            loop.turn(run, 1, past, seed)
    measured = read(run.generation(1) / "calibration.json")
    assert measured["review"]["recall"] < 1 and measured["below_floor"].startswith("review: ")


def test_fewer_accepted_transcripts_than_a_batch_needs_is_one_line(tiny_run, tmp_path):
    run, past, seed = beginning(tiny_run, tmp_path / "few", tiny_config(train__batch=512))
    with pytest.raises(TooFewAccepted, match=r"student examples, a batch takes 166; start a new run .*funnel"):
        loop.turn(run, 1, past, seed)
    run.metrics.close()
    assert not (run.generation(1) / "model").exists()


@pytest.mark.parametrize("error", [ReviewerBelowFloor("why", {}), TooFewAccepted("why"), RunEnded("why")])
def test_whatever_ends_a_run_is_written_down(tiny_run, tmp_path, monkeypatch, error):
    directory = start(as_it_was(tiny_run, tmp_path / "run", 0), tiny_config())

    def end(*_):
        raise error

    monkeypatch.setattr(loop, "turn", end)
    with pytest.raises(RunEnded, match="^why$"):
        loop.run(directory, tiny_config(), Silent())
    assert read(directory / "ended.json") == {"reason": "why"} and status.status(directory)["finished"]


def test_documents_that_changed_under_a_run_are_refused_and_gone_on_with_when_restored(tiny_run, tmp_path, monkeypatch):
    run, _, _ = beginning(tiny_run, tmp_path / "run")
    run.metrics.close()
    other = Material((Document("another", "quite another text"),), run.world.slices[1].tasks)
    changed = dataclasses.replace(run.world, slices=(run.world.slices[0], other))
    with monkeypatch.context() as patch:
        patch.setattr(given, "load", lambda *_: changed)
        with pytest.raises(ValueError, match=r"the documents \(slice 2\) of .* since the run began; restore them"):
            runs.prepare(run.directory, tiny_config(), Silent())
    first, *others = run.world.seed.tasks
    mended = run.world.seed._replace(tasks=(dataclasses.replace(first, answer="mended."), *others))
    with monkeypatch.context() as patch:
        patch.setattr(given, "load", lambda *_: dataclasses.replace(run.world, seed=mended))
        with pytest.raises(ValueError, match=r"the tasks of seed of .* changed since the run began; restore them"):
            runs.prepare(run.directory, tiny_config(), Silent())
    (run.directory / "inputs.json").unlink()  # which does not make other documents those that the run began with
    with monkeypatch.context() as patch:
        patch.setattr(given, "load", lambda *_: changed)
        with pytest.raises(ValueError, match=r"inputs\.json: made again, it is not what was committed"):
            runs.prepare(run.directory, tiny_config(), Silent())
        with pytest.raises(ValueError, match=r"inputs\.json: the file is missing; `ratchet resume .*` makes it again"):
            runs.prepare(run.directory, tiny_config(), Silent(), writes=False)
    runs.prepare(run.directory, tiny_config(), Silent()).metrics.close()
    assert (run.directory / "inputs.json").exists()


def test_labelled_questions_that_changed_under_a_run_are_refused(tiny_run, tmp_path, monkeypatch):
    run, _, _ = beginning(tiny_run, tmp_path / "run")
    run.metrics.close()
    monkeypatch.setattr(given, "load", lambda *_: dataclasses.replace(run.world, untaught=("another question?",)))
    with pytest.raises(ValueError, match=r"the labelled questions of .* changed since the run began; restore them"):
        runs.prepare(run.directory, tiny_config(), Silent())


def test_a_run_whose_first_beginning_fails_can_be_begun_otherwise_in_the_same_place(tmp_path):
    directory = epath.Path(tmp_path) / "run"
    with pytest.raises(ValueError, match="raise --model.vocab-size"):
        loop.run(directory, tiny_config(model__vocab_size=270), Silent())
    left = {p.name for p in directory.iterdir()}
    assert not left & {"config.json", "config.yaml", "inputs.json", "tokenizer"}


@pytest.mark.long
def test_a_generation_on_two_devices_goes_on_from_weights_on_disk(tiny_run, tmp_path, monkeypatch):
    """What was loaded lies on the same mesh as what was trained: the lesson vector is their difference."""
    monkeypatch.setattr(runs, "make_mesh", lambda config: make_mesh(config, jax.devices()[:2]))
    directory = as_it_was(tiny_run, tmp_path / "two", 1)
    run = runs.prepare(directory, tiny_config(), Silent())
    seed = Seed(run)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(seed.weights)} == {2}
    loop.turn(run, 2, loop.finished(run, 1), seed)
    run.metrics.close()
    assert read(run.generation(2) / "wrongthink.json")["sweep"] and (run.generation(2) / "DONE.json").exists()
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(run.weights(2))} == {2}


def test_proposals_for_two_slices_are_one_stage(turn, monkeypatch):
    """The second time of a stage would count as time that was lost."""
    run, told, asked = turn(1).run, [], []
    monkeypatch.setattr(runs.Run, "has_weights", lambda self, place: True)
    monkeypatch.setattr(runs.Run, "timed", lambda self, place, stage: told.append(stage) or contextlib.nullcontext())
    monkeypatch.setattr(loop.propose, "missing", lambda r, number: True)
    monkeypatch.setattr(loop.propose, "propose", lambda r, number, weights: asked.append(number))
    monkeypatch.setattr(loop, "evaluation", lambda *_: {})
    loop.begin(run, SimpleNamespace(weights=None))
    assert asked == [0, 1] and told.count("propose") == 1

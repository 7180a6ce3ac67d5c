"""A run that has begun gets other settings, and stays as it was where it cannot go on with them."""

import dataclasses
import json

import pytest
from runs import as_it_was
from support import tiny_config

from ratchet.bootstrap import given
from ratchet.bootstrap.config import with_settings
from ratchet.launch import extending


def read(path):
    return json.loads(path.read_text())


def test_a_world_that_begins_differently_for_more_generations_cannot_grow(tiny_run, tmp_path, monkeypatch):
    """The run is as it was, and can be resumed."""
    directory = as_it_was(tiny_run, tmp_path / "run", 2)
    (directory / "imitation").mkdir()
    world = given.load("lessons", (None, tiny_config().lessons, None), 0, 3, None)
    monkeypatch.setattr(given, "load", lambda *_: dataclasses.replace(world, slices=world.slices[::-1]))
    with pytest.raises(ValueError, match=r"the documents \(slice 1\) of .* changed"):
        extending.extend(directory, tiny_config(generations=3))
    assert read(directory / "config.json")["generations"] == 2 and (directory / "imitation").exists()


def test_a_run_that_lost_the_hashes_of_its_inputs_makes_them_again_before_it_grows(tiny_run, tmp_path, monkeypatch):
    directory = as_it_was(tiny_run, tmp_path / "run", 2)
    before = read(directory / "inputs.json")
    (directory / "inputs.json").unlink()
    world = given.load("lessons", (None, tiny_config().lessons, None), 0, 3, None)
    other = lambda *_: dataclasses.replace(world, slices=world.slices[::-1])
    with monkeypatch.context() as changed:
        changed.setattr(given, "load", other)
        with pytest.raises(ValueError, match="inputs.json: made again, it is not what"):
            extending.extend(directory, tiny_config(generations=3))
    extending.extend(directory, tiny_config(generations=3))
    after = read(directory / "inputs.json")
    assert after.items() >= before.items() and "slice 3" in after.keys() - before.keys()
    assert read(directory / "config.json")["generations"] == 3


def test_with_longer_rows_what_is_in_training_begins_anew_and_what_is_trained_stays(tiny_run, tmp_path):
    directory = as_it_was(tiny_run, tmp_path / "run", 1)
    lacking, arms = directory / "gen-002" / "dataset" / "1.0.0", ("loop-002", "anti-001", "lesson-002", "imitation-002")
    for place in (lacking, *(directory / "checkpoints" / name for name in arms)):
        place.mkdir(parents=True)
    (lacking / "record.json").write_text(json.dumps({"left_out": 3, "longest": 200}))
    trained = directory / "gen-002" / "training.json"
    trained.write_text("{}")
    extending.extend(directory, with_settings(tiny_config(), {"train.engine.save_every": 7}))
    assert lacking.exists() and trained.exists() and (directory / "checkpoints" / "loop-002").exists()
    extending.extend(directory, tiny_config(train__columns=200))
    assert read(directory / "config.json")["train"]["columns"] == 200 and not lacking.exists()
    assert not trained.exists(), "it said what a step takes of the dataset that is made anew"
    assert (directory / "gen-001" / "training.json").exists()
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"seed-000", "loop-001"}, "no side runs"
    assert (directory / "gen-001" / "dataset" / "1.0.0").exists()

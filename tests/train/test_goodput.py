"""Events of where the time goes, as they are written."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest
from etils import epath

from ratchet.train import goodput
from ratchet.train.checkpoint import Checkpoints, save_weights
from ratchet.train.goodput import FILE, _Compiled


def events(directory) -> list[dict]:
    return [json.loads(line) for line in (directory / FILE).read_text().splitlines()]


def named(found: list[dict]) -> list[str]:
    """What each event is of, after those that every process begins with."""
    return [next(name for name in e if name.endswith("_time")) for e in found[5:]]


def test_a_job_says_when_it_began_had_devices_was_prepared_and_ended(tmp_path):
    before = time.time()
    with goodput.recording(epath.Path(tmp_path), 10.0, 12.0):
        pass
    job, *prepared, ended = events(tmp_path)
    assert job == {"job_name": tmp_path.name, "job_start_time": 10.0}
    assert [e.get("tpu_init_start_time") or e.get("tpu_init_end_time") for e in prepared[:2]] == [10.0, 12.0]
    assert prepared[2]["training_prep_start_time"] == 12.0 and prepared[3]["training_prep_end_time"] >= before
    assert ended["job_end_time"] >= before


def test_a_job_that_fails_ends_and_what_it_was_at_does_not(tmp_path):
    def fail() -> None:
        with goodput.stage("review", "gen-001", again=False), goodput.activity("data_loading"):
            raise RuntimeError

    with pytest.raises(RuntimeError), goodput.recording(epath.Path(tmp_path), 1.0, 2.0):
        fail()
    assert named(events(tmp_path)) == ["custom_badput_event_start_time", "data_loading_start_time", "job_end_time"]


def test_a_stage_ends_and_begins_again_whenever_something_is_kept(tmp_path):
    with goodput.recording(epath.Path(tmp_path), 1.0, 2.0):
        goodput.kept()  # no stage is under way
        with goodput.stage("simulate", "gen-001", again=False):
            goodput.kept()
    found = events(tmp_path)[5:-1]
    start, end = "custom_badput_event_start_time", "custom_badput_event_end_time"
    assert named(events(tmp_path)) == [start, end, start, end, "job_end_time"]
    assert {(e["custom_badput_event_type"], e["place"]) for e in found} == {("simulate", "gen-001")}
    assert found[1][end] == found[2][start] and "again" not in found[0]


def test_nothing_is_written_where_nothing_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with goodput.stage("train", "gen-001", again=False), goodput.activity("data_loading"):
        goodput.kept()
        goodput.event(step_count=1, step_start_time=1.0)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_say_how_long_they_took_and_what_is_saved_is_kept(tmp_path):
    state = {"a": jnp.ones(3)}
    with goodput.recording(epath.Path(tmp_path), 1.0, 2.0), goodput.stage("train", "gen-001", again=False):
        save_weights(epath.Path(tmp_path) / "model", state)
        with Checkpoints(epath.Path(tmp_path) / "model") as checkpoints:
            checkpoints.restore(state)
    found = {e["event_type"]: e for e in events(tmp_path) if "event_type" in e}
    assert found["save"]["checkpoint_manager_blocking_duration_secs"] >= 0
    assert found["restore"]["checkpoint_manager_duration_secs"] >= 0
    assert named(events(tmp_path))[1:4] == [
        "checkpoint_manager_blocking_start_time", "custom_badput_event_end_time", "custom_badput_event_start_time",
    ]  # fmt: skip


def test_what_is_compiled_stands_in_the_next_line(tmp_path):
    with goodput.recording(epath.Path(tmp_path), 1.0, 2.0):
        jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((7, 7))))
        goodput.event(step_count=1, step_start_time=time.time())
        goodput.event(step_count=2, step_start_time=time.time())
    first, second = (e for e in events(tmp_path) if "step_count" in e)
    assert 0 < first["compiling"] < 60 and "compiling" not in second


def test_of_what_a_thread_compiles_the_time_is_counted_that_was_waited_for(tmp_path):
    with goodput.recording(epath.Path(tmp_path), 1.0, 2.0), ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: jax.block_until_ready(jax.jit(lambda x: jnp.cos(x) @ x.T)(jnp.ones((9, 9))))).result()
        goodput.event(step_count=1, step_start_time=time.time())
        goodput.compiled(2.5)
        goodput.event(step_count=2, step_start_time=time.time())
    first, second = (e for e in events(tmp_path) if "step_count" in e)
    assert "compiling" not in first and second["compiling"] == 2.5
    goodput.compiled(1.0)  # where nothing is recorded, nothing happens


def test_a_program_within_another_is_compiled_once(monkeypatch):
    now, compiled = [0.0], _Compiled()
    monkeypatch.setattr("ratchet.train.goodput.time.monotonic", lambda: now[0])
    for end, seconds in ((2.0, 1.0), (3.0, 0.5), (4.0, 4.0), (9.0, 2.0)):
        now[0] = end
        compiled.add(seconds)
    assert compiled.taken() == 6.0 and compiled.taken() == 0.0

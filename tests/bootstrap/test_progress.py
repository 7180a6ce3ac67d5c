import json
import sys

import pytest
import wandb
from etils import epath
from tensorboardX.event_file_writer import EventFileWriter

from ratchet.bootstrap.progress import Metrics, Noted, Reached, Silent, Tallies, Tally, counted, timed
from ratchet.bootstrap.report.files import lines_in
from ratchet.train import goodput
from ratchet.train.holder import holder_of, holding


def test_every_step_is_a_line_for_programs_and_a_point_on_the_board(tmp_path, monkeypatch):
    points = []
    monkeypatch.setattr(EventFileWriter, "add_event", lambda self, event, *_: points.append(event))
    metrics = Metrics(epath.Path(tmp_path) / "run")
    metrics.log(1, "loop", 20, {"loss": 1.23456789, "busy": 0.5})
    metrics.log(2, "seed", 0, {"loss": 7})
    metrics.close()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line.pop("time") > 0 for line in lines)
    assert lines == [
        {"generation": 1, "arm": "loop", "step": 20, "loss": 1.23457, "busy": 0.5},
        {"generation": 2, "arm": "seed", "step": 0, "loss": 7.0},
    ]
    found = [(e.step, v.tag, round(v.simple_value, 5)) for e in points for v in e.summary.value]
    assert found == [(20, "loop/gen-001/loss", 1.23457), (20, "loop/gen-001/busy", 0.5), (0, "seed/gen-002/loss", 7.0)]


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    for step in range(2):
        metrics = Metrics(epath.Path(tmp_path))
        metrics.log(1, "loop", step, {})
        metrics.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_the_steps_of_one_arm_can_be_taken_out(tmp_path):
    metrics = Metrics(epath.Path(tmp_path))
    for arm in ("loop", "imitation", "loop"):
        metrics.log(1, arm, 0, {"loss": 1.0})
    metrics.forget("imitation")
    metrics.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["loop", "loop"]


def test_a_project_of_weights_and_biases_gets_the_same_figures_and_no_file_its_key(tmp_path, monkeypatch):
    """Offline it writes what it would send."""
    key = "0123456789" * 4
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", key)
    metrics = Metrics(epath.Path(tmp_path) / "run", True, "ratchets", {"train.steps": 77321})
    metrics.log(1, "loop", 20, {"loss": 1.23456789})
    metrics.log(1, "seed", 3, {"loss": 7.5})
    metrics.close()
    wandb.teardown()  # as the process's end does, this waits for what is still being written
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    (sent,) = (file.read_bytes() for file in tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    for part in (b"ratchets", b"train.steps", b"77321", b"loop/gen-001/loss", b"1.23457", b"seed/gen-001/step"):
        assert part in sent
    assert not [file for file in files if key.encode() in file]


def test_a_missing_library_is_a_line_that_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"wandb: it needs the library wandb; `.*pip install 'ratchet\[wandb\]'`"):
        Metrics(epath.Path(tmp_path), True, "ratchets")


def test_the_time_of_a_stage_adds_up_across_resumes(tmp_path, monkeypatch):
    clock = iter([0.0, 2.5, 10.0, 11.0, 100.0, 104.25, 200.0])
    monkeypatch.setattr("ratchet.bootstrap.progress.time.monotonic", lambda: next(clock))
    for stage in ("train", "review", "train"):
        with timed(epath.Path(tmp_path), stage):
            pass
    with pytest.raises(RuntimeError), timed(epath.Path(tmp_path), "review"):
        raise RuntimeError
    assert json.loads((tmp_path / "stages.json").read_text()) == {"train": 6.75, "review": 1.0}


def test_a_stage_is_recorded_with_its_place_and_whether_it_was_whole_before(tmp_path):
    place = epath.Path(tmp_path) / "gen-001"
    with goodput.recording(epath.Path(tmp_path), 1.0, 2.0):
        for stage in ("train", "review", "train"):
            with timed(place, stage):
                pass
    events = [json.loads(line) for line in (tmp_path / goodput.FILE).read_text().splitlines()]
    begun = [e for e in events if "custom_badput_event_start_time" in e]
    stages = [(e["custom_badput_event_type"], e["place"], e.get("again", False)) for e in begun]
    assert stages == [("train", "gen-001", False), ("review", "gen-001", False), ("train", "gen-001", True)]


def test_silence_can_be_told_anything(capsys):
    with Silent().stage("simulate", 3) as advance:
        advance(1)
        advance(2, ("about it",), found=True, left=1.0)
    Silent().line("a line")
    assert capsys.readouterr() == ("", "")


def test_time_left_comes_from_the_items_that_were_made_now(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ratchet.bootstrap.progress.time.monotonic", lambda: now[0])
    tally = Tally(100)
    tally.add(60, found=True, left=None)
    assert tally.left is None and tally.made == 0
    now[0] = 20.0
    tally.add(10, found=False, left=None)
    assert (tally.done, tally.made, tally.left) == (70, 10, 60.0)
    tally.add(1, found=False, left=7.5)
    assert tally.left == 7.5


def test_a_stage_within_a_stage_takes_nothing_of_its_pace(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ratchet.bootstrap.progress.time.monotonic", lambda: now[0])
    tallies = Tallies()
    with tallies.stage(10) as outer:
        now[0] = 20.0
        outer.add(4, found=False, left=None)
        with tallies.stage(2) as inner:
            now[0] = 50.0
            with tallies.stage(1):
                now[0] = 400.0
            inner.add(1, found=False, left=None)
            assert (inner.own, inner.left) == (30.0, 30.0)
        now[0] = 405.0
        outer.add(1, found=False, left=None)
        assert (outer.spent, outer.own, outer.left) == (405.0, 25.0, 25.0)


def test_what_was_told_is_never_told_again():
    told = []
    reached = Reached(told.append)
    within = counted(reached)
    for more in (3, 0, 2):
        within(more)
    reached(4)  # one of them calls a tool and goes on
    counted(reached, 4)(2)
    assert told == [3, 2, 1]


def test_the_process_says_in_its_record_what_it_does_and_a_stage_within_a_stage_for_as_long_as_it_lasts(tmp_path):
    directory, beats = epath.Path(tmp_path), []
    with holding(directory) as holder:
        noted = Noted(Silent(), holder, beats.append)
        with noted.stage("gen 2 wrongthink", 4) as advance:
            advance(3)
            with noted.stage("gen 2 train (anti)", 60) as inner:
                inner(20, found=True)
                assert (holder.doing["title"], holder.doing["done"]) == ("gen 2 train (anti)", 20)
            assert (holder.doing["title"], holder.doing["done"], holder.doing["total"]) == ("gen 2 wrongthink", 3, 4)
            assert holder_of(directory)["pid"]
        assert beats[1:] == [
            "in gen 2 wrongthink, after 3 of 4", "at the beginning of gen 2 train (anti)",
            "in gen 2 train (anti), after 20 of 60",
        ]  # fmt: skip
        assert holder.doing is None


def test_a_torn_line_of_metrics_takes_no_other_with_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"torn')
    metrics = Metrics(epath.Path(tmp_path))
    metrics.log(1, "loop", 20, {"loss": 1.0})
    metrics.close()
    assert [line["step"] for line in lines_in(epath.Path(tmp_path) / "metrics.jsonl")] == [0, 20]

"""What of a run's time was useful, from the events that its processes wrote."""

import json
import random

import pytest
from etils import epath

from ratchet.bootstrap.report.goodput import BADPUT, FILE, goodput, said, spent
from ratchet.train import goodput as recorded
from ratchet.train.files import numbers_in


def write(directory, *jobs) -> epath.Path:
    """Writes the events of some processes."""
    place = epath.Path(directory)
    (place / FILE).write_text("".join(json.dumps({"job_name": "x"} | event) + "\n" for job in jobs for event in job))
    return place


def began(at: float) -> list[dict]:
    """A process that had devices after a second, and was prepared after another two."""
    return [
        {"job_start_time": at}, {"tpu_init_start_time": at}, {"tpu_init_end_time": at + 1},
        {"training_prep_start_time": at + 1}, {"training_prep_end_time": at + 3},
    ]  # fmt: skip


def of(stage: str, which: str, at: float, place: str = "gen-001", **more) -> dict:
    return {"custom_badput_event_type": stage, "place": place, f"custom_badput_event_{which}_time": at} | more


def test_it_reads_what_is_recorded():
    assert recorded.FILE == FILE


def test_useful_is_what_stages_keep_and_all_else_is_told_by_kind(tmp_path):
    job = [
        *began(100), of("train", "start", 104), {"data_loading_start_time": 105}, {"data_loading_end_time": 107},
        {"step_count": 1, "step_start_time": 117, "compiling": 6.0},
        {"event_type": "save", "checkpoint_manager_blocking_start_time": 127,
         "checkpoint_manager_blocking_duration_secs": 3.0},
        of("train", "end", 130), of("train", "start", 130), of("train", "end", 140, compiling=0.5),
        {"job_end_time": 150},
    ]  # fmt: skip
    found = goodput(write(tmp_path, job))
    assert found["useful"] == {"train": 1 + 4 + 10 + 9.5} and found["goodput_time"] == 24.5
    assert found["badput_time"] == {
        "TPU_INITIALIZATION": 1, "TRAINING_PREP": 2, "OTHER": 11, "DATA_LOADING_SYNC": 2, "PROGRAM_STARTUP": 6.5,
        "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME": 3,
    }  # fmt: skip
    assert found["total_elapsed_time"] == 50 and found["share"] == pytest.approx(24.5 / 43.5)
    assert found["stages"] == {"gen-001": {"train": 36}} and found["disruption_count"] == 0


def test_what_a_kill_loses_and_how_long_nobody_worked_is_not_useful(tmp_path):
    killed = [
        *began(0), of("simulate", "start", 3), of("simulate", "end", 13), of("simulate", "start", 13),
        {"step_count": 20, "step_start_time": 18},
    ]  # fmt: skip
    again = [*began(30), of("simulate", "start", 33), of("simulate", "end", 43), {"job_end_time": 43}]
    found = goodput(write(tmp_path, killed, again))
    assert found["useful"] == {"simulate": 20} and found["disruption_count"] == 1
    assert found["badput_time"]["WASTED_PROGRESS_FROM_DISRUPTION"] == 5
    assert found["badput_time"]["INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION"] == 12
    assert found["total_elapsed_time"] == 43 and found["stages"] == {"gen-001": {"simulate": 20}}


def test_a_run_that_was_stopped_may_rest_and_loses_only_what_was_in_hand(tmp_path):
    stopped = [*began(0), of("review", "start", 3), {"job_end_time": 5}]
    later = [*began(1000), of("review", "start", 1003), of("review", "end", 1010), {"job_end_time": 1010}]
    found = goodput(write(tmp_path, stopped, later))
    assert found["total_elapsed_time"] == 15 and found["disruption_count"] == 0
    assert found["badput_time"]["WASTED_PROGRESS_FROM_DISRUPTION"] == 2
    assert "INFRASTRUCTURE_RECOVERY_FROM_DISRUPTION" not in found["badput_time"]


def test_finding_what_was_made_before_is_not_useful(tmp_path):
    job = [*began(0), of("review", "start", 3, again=True), of("review", "end", 5, again=True), {"job_end_time": 5}]
    found = goodput(write(tmp_path, job))
    assert found["goodput_time"] == 0 and found["badput_time"]["CUSTOM_BADPUT_EVENTS"] == 2


def test_while_a_process_works_its_stage_counts_until_now(tmp_path):
    place = write(tmp_path, [*began(0), of("train", "start", 3)])
    assert goodput(place, 13.0)["useful"] == {"train": 10} and goodput(place, 13.0)["disruption_count"] == 0
    dead = goodput(place)
    assert dead["goodput_time"] == 0 and dead["disruption_count"] == 1 and dead["total_elapsed_time"] == 3


@pytest.mark.parametrize("content", [b"", b"{", b'[1]\n"x"\n{"step_count": 1}\n{"job_start_time": "soon"}\n', b"\xff"])
def test_a_file_that_says_nothing_is_none(tmp_path, content):
    assert goodput(epath.Path(tmp_path)) is None
    (tmp_path / FILE).write_bytes(content)
    assert goodput(epath.Path(tmp_path)) is None


def test_torn_lines_and_clocks_that_jump_do_no_harm(tmp_path):
    place = write(tmp_path, [*began(100), of("train", "start", 103), of("train", "end", 50), {"job_end_time": 110}])
    text = (place / FILE).read_text().replace('"job_end', '"compiling": null, "job_end')
    (place / FILE).write_text(text + '{"jo')
    found = goodput(place)
    assert found["total_elapsed_time"] == 10 and min([*found["badput_time"].values(), found["goodput_time"]]) >= 0


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_come_to_the_whole(tmp_path, seed):
    """However processes die: every second is counted once."""
    rng, jobs, now = random.Random(seed), [], 1000.0
    first, rested = now, 0.0
    for number in range(4):
        job = began(now)
        now += 3
        for stage in ("simulate", "review", "train"):
            job.append(of(stage, "start", now, again=rng.random() < 0.3))
            for _ in range(rng.randrange(3)):
                now += rng.uniform(0, 9)
                job += [of(stage, "end", now, compiling=rng.uniform(0, 12)), of(stage, "start", now)]
            if rng.random() < 0.3:
                break
            now += rng.uniform(0, 9)
            job.append(of(stage, "end", now))
        if rng.random() < 0.5:
            job.append({"job_end_time": now})
            rested += 50 if number < 3 else 0
        jobs.append(job)
        last, now = now, now + 50
    found = goodput(write(tmp_path, *jobs))
    assert found["total_elapsed_time"] == pytest.approx(last - first - rested, abs=0.1)
    assert 0 <= (found["share"] or 0) <= 1 and found["badput_time"].keys() <= BADPUT.keys()


def test_it_is_said_in_a_line_and_in_parts_the_most_first(tmp_path):
    job = [*began(0), of("train", "start", 3), of("train", "end", 63, compiling=10.0), {"job_end_time": 63}]
    found = goodput(write(tmp_path, job))
    assert said(found) == "goodput 94.3 %: 50.0 s useful of 53.0 s, and 10.0 s compiling"
    assert spent(found) == [
        ("train", 50, True), ("compiling", 10, False), ("preparing the run", 2, False),
        ("finding the devices", 1, False),
    ]  # fmt: skip


def test_the_stages_of_a_real_run_took_as_long_as_it_says_itself(tiny_run):
    found = goodput(tiny_run)
    assert found["stages"].keys() == {"gen-000", "gen-001", "gen-002", "imitation"}
    for place, took in found["stages"].items():
        own = numbers_in(tiny_run / place / "stages.json")
        assert {n: took.get(n, 0.0) for n in own} == pytest.approx(own, abs=0.3)
    assert found["disruption_count"] == 0 and 0 < found["share"] < 1
    kinds = {"PROGRAM_STARTUP", "TRAINING_PREP", "DATA_LOADING_SYNC", "UNPRODUCTIVE_CHECKPOINT_SAVE_TIME"}
    assert kinds <= found["badput_time"].keys()

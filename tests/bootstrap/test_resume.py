"""Kill a run anywhere, even one that has begun to grow, go on with it, and it is bit for bit one that nothing stopped."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kill_at import POINTS
from runs import as_it_was, contents, different
from support import start, tiny_config

from ratchet.bootstrap import loop
from ratchet.bootstrap.config import from_json
from ratchet.bootstrap.progress import Silent
from ratchet.launch import cli
from ratchet.train.files import read_unit

DRIVER = Path(__file__).with_name("kill_at.py")
FIRST = {"tokenizer": "inputs.json", "seed": "checkpoints/seed-000", "begin": "gen-000/model/0", "imitation": "gen-001/DONE.json"}
"""Points in a run of one generation, and what must lie there when it is killed."""
SECOND = {
    "simulate": "simulate/unit-00000.json",
    "calibrate": "simulate/unit-00003.json",
    "review": "review/unit-00000.json",
    "targets": "targets/unit-00000.json",
    "thinker": "targets/unit-00003.json",
    "wrongthink": "wrongthink/unit-00000.json",
    "corrections": "corrections/unit-00000.json",
    "dataset": "corrections/unit-00003.json",
    "audit": "dataset/1.0.0/dataset_info.json",
    "train": "audit.json",
    "weights": "audit.json",
    "evaluate": "model/0",
    "promote": "evaluation.json",
    "done": "decision.json",
}
"""Points in the second generation, to which the run grows, and what must lie there."""
IN_EARNEST = ("dataset", "train")
"""Points at which a process of its own is killed, since only there more is lost than by an exception."""


class Killed(BaseException):
    """Stands for SIGKILL where the process has to live on."""


def killed():
    raise Killed


def driven(point, directory, *words):
    command = [sys.executable, DRIVER, point, directory, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def go(directory):
    config = from_json((directory / "config.json").read_text())
    loop.run(directory, config, Silent())


def kill(directory, point, act=go):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        POINTS[point](patch.setattr, killed)
        act(directory)


@dataclasses.dataclass(frozen=True)
class Past:
    """A run that was killed at every point, what lay there each time, and what it said when the disk was full."""

    directory: Path
    left: dict[str, set[str]]
    full: subprocess.CompletedProcess


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A run of one generation, killed, finished, grown to two, killed, and finished."""
    directory = start(tmp_path_factory.mktemp("killed") / "run", tiny_config(generations=1))
    files = lambda: {str(f.relative_to(directory)) for f in Path(directory).rglob("*")}
    left = {}
    for point in FIRST:
        kill(directory, point)
        left[point] = files()
    go(directory)
    left["short"] = files()
    grown = dataclasses.replace(from_json((directory / "config.json").read_text()), generations=2)
    kill(directory, "extend", lambda place: loop.extend(place, grown))
    left["extend"] = files()
    full = driven("full", directory, "--generations", "2")
    left["full"] = files()
    for point in SECOND:
        if point in IN_EARNEST:
            done = driven(point, directory)
            assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr[-2000:]}"
        else:
            kill(directory, point)
        left[point] = files()
    go(directory)
    return Past(Path(directory), left, full)


def test_nothing_that_counts_differs_from_a_run_of_two_generations_that_nothing_stopped(past, tiny_run):
    assert different(tiny_run, past.directory) == []
    found = contents(tiny_run)
    assert {"gen-002/model", "imitation/model", "gen-002/corrections/unit-00003.array_record"} <= found.keys()
    assert found["gen-001/model"] != found["gen-002/model"] != found["imitation/model"]


def test_both_generations_have_something_in_every_stage(tiny_run):
    """Else the comparison would prove little."""
    for stage in ("simulate", "review", "targets", "wrongthink", "corrections"):
        units = sorted((Path(tiny_run) / "gen-002" / stage).glob("*.array_record"))
        assert len(units) == 4 and sum(len(read_unit(unit)) for unit in units) > 1, stage


@pytest.mark.parametrize(("point", "before"), [*FIRST.items(), *((p, f"gen-002/{b}") for p, b in SECOND.items())])
def test_what_came_before_a_kill_was_committed_and_what_came_after_was_not(past, point, before):
    assert before in past.left[point]
    later = {"tokenizer": "gen-000", "seed": "gen-000/model/0", "begin": "gen-000/evaluation.json"}
    units = {p: f"gen-002/{p}/unit-00001.json" for p in ("simulate", "review", "targets", "wrongthink", "corrections")}
    files = {"calibrate": "calibration.json", "thinker": "wrongthink.json", "dataset": "dataset/1.0.0", "audit": "audit.json"}
    files |= {"train": "model/0", "weights": "model/0", "evaluate": "evaluation.json", "promote": "decision.json"}
    later |= units | {p: f"gen-002/{name}" for p, name in (files | {"done": "DONE.json"}).items()}
    later |= {"imitation": "imitation/model/0"}
    assert later[point] not in past.left[point]


def test_a_killed_process_leaves_halves_that_are_gone_in_the_end(past):
    assert any("/.1.0.0.tmp" in name for name in past.left["dataset"])
    assert not [f for f in past.directory.rglob("*") if f.name.startswith(".") or f.name.endswith(".tmp")]


def test_a_growing_run_first_loses_the_arm_of_its_last_generation(past):
    assert {"imitation/evaluation.json", "checkpoints/imitation-001"} <= past.left["short"]
    assert not [name for name in past.left["extend"] if "imitation" in name]
    assert {f.name for f in (past.directory / "checkpoints").glob("imitation-*")} == {"imitation-002"}
    logged = [json.loads(line) for line in (past.directory / "metrics.jsonl").read_text().splitlines()]
    assert {entry["generation"] for entry in logged if entry["arm"] == "imitation"} == {2}


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(past):
    assert past.full.returncode == 1 and "Traceback" not in past.full.stderr
    said = past.full.stderr.strip().splitlines()[-1]
    assert f"{past.directory}: the disk is full or a quota is reached; free some space" in said
    assert not [name for name in past.left["full"] if "gen-002/simulate/" in name or name.endswith(".tmp")]


def test_a_finished_run_that_is_resumed_changes_nothing(past):
    times = lambda: {f: f.stat().st_mtime_ns for f in past.directory.rglob("*") if f.is_file()}
    before = times()
    go(past.directory)
    changed = {f.name for f, time in times().items() if before.get(f) != time and "tensorboard" not in f.parts}
    assert changed <= {"stages.json", "plan.json"}


def test_a_truncated_unit_is_one_clear_line_and_its_remedy_works(past, tmp_path, capsys):
    directory = as_it_was(past.directory, tmp_path / "run", 2)
    (directory / "gen-002" / "DONE.json").unlink()
    unit = directory / "gen-002" / "simulate" / "unit-00000.array_record"
    unit.write_bytes(unit.read_bytes()[: unit.stat().length // 2])
    assert cli.main(["resume", str(directory)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "unit-00000.array_record" in said[0] and "delete it and resume" in said[0]
    unit.unlink()
    go(directory)
    assert different(past.directory, directory) == []

"""Kill a run anywhere, resume, and weights, datasets and evaluations are bit-identical."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from kill_at import POINTS
from support import arrays, little_config, start

from ratchet.bootstrap import loop
from ratchet.bootstrap.config import from_json
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.progress import Silent
from ratchet.models import decoder
from ratchet.train.checkpoint import load_weights
from ratchet.train.files import read_unit

DRIVER = Path(__file__).with_name("kill_at.py")
CONFIG = little_config(controls__imitation=False, simulate__unit_tasks=1, simulate__samples=8)
COMMITTED_BEFORE = {
    "simulate": "simulate/unit-00000.json", "review": "simulate/unit-00001.json", "targets": "review/unit-00001.json",
    "choosing λ": "targets/unit-00001.json", "corrections": "wrongthink/unit-00000.json",
    "dataset": "corrections/unit-00003.json", "train": "dataset/1.0.0/dataset_info.json",
    "weights": "training.json", "evaluate": "model/0", "promote": "evaluation.json",
}  # fmt: skip
"""What must lie there, and thereby not be made again, when a kill point is reached."""


class Killed(BaseException):
    """Stands for the end of the process."""


def die():
    raise Killed


def go_on(directory):
    loop.run(epath.Path(directory), CONFIG, Silent())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = start(tmp_path_factory.mktemp("whole") / "run", CONFIG)
    go_on(directory)
    return directory


@pytest.fixture(scope="module")
def killed(uninterrupted, tmp_path_factory):
    """A copy of the run up to generation 1, gone on with and ended in every stage of the next, then finished."""
    directory = beginning(uninterrupted, Path(tmp_path_factory.mktemp("killed")) / "run")
    assert list(COMMITTED_BEFORE) == list(POINTS)
    for point, before in COMMITTED_BEFORE.items():
        with pytest.raises(Killed), POINTS[point](die):
            go_on(directory)
        assert (directory / "gen-002" / before).exists(), point
    go_on(directory)
    return directory


def beginning(uninterrupted, directory):
    shutil.copytree(uninterrupted, directory)
    shutil.rmtree(directory / "gen-002")
    for leftover in (directory / "checkpoints").glob("*-002"):
        shutil.rmtree(leftover)
    return directory


def weights(directory, generation):
    config = from_json((epath.Path(directory) / "config.json").read_text())
    return arrays(load_weights(epath.Path(directory) / generation / "model", decoder.create(config.model, 0)[1]))


def units(directory, stage):
    place = epath.Path(directory) / "gen-002" / stage
    commits = sorted(place.glob("unit-*.json"))
    return [(json.loads(c.read_text())["inputs"], read_unit(c.with_suffix(".array_record"))) for c in commits]


MEASURED = tuple("evaluation decision calibration audit funnel samples wrongthink plan training DONE".split())


def assert_same_run(one, other):
    a, b = weights(one, "gen-002"), weights(other, "gen-002")
    assert a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)
    for stage in ("simulate", "review", "targets", "wrongthink", "corrections"):
        assert units(one, stage) == units(other, stage), stage
        assert len(units(one, stage)) > 1, stage
    a, b = (Path(d) / "gen-002" / "dataset" / "1.0.0" for d in (one, other))
    assert sorted(f.name for f in a.iterdir()) == sorted(f.name for f in b.iterdir())
    for file in a.iterdir():
        same = file.read_bytes() == (b / file.name).read_bytes()
        assert same, file.name  # not compared in the assert: its diff of a megabyte takes a minute
    for name in MEASURED:
        a, b = (json.loads((Path(d) / "gen-002" / f"{name}.json").read_text()) for d in (one, other))
        assert a == b, name


def test_a_run_ended_in_every_stage_is_the_uninterrupted_one_bit_by_bit(uninterrupted, killed):
    assert_same_run(uninterrupted, killed)
    own = weights(uninterrupted, "gen-002")
    assert any((own[name] != w).any() for name, w in weights(uninterrupted, "gen-001").items())


def resume(directory, point):
    return subprocess.run(
        [sys.executable, DRIVER, directory, point], capture_output=True, text=True, timeout=1800, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip


def test_a_process_killed_without_warning_is_gone_on_with_bit_by_bit(uninterrupted, tmp_path):
    """Both are processes of their own: this one has other devices, and so rounds otherwise."""
    whole, directory = (beginning(uninterrupted, tmp_path / name) for name in ("whole", "killed"))
    for point in ("simulate", "train"):
        done = resume(directory, point)
        assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr[-2000:]}"
        assert (directory / "gen-002" / COMMITTED_BEFORE[point]).exists()
    for place in (whole, directory):
        done = resume(place, "never")
        assert done.returncode == 0, done.stderr[-2000:]
    assert_same_run(whole, directory)


def test_finished_work_is_neither_done_nor_read_again(killed, monkeypatch):
    """A resumed, finished run changes no file of a generation and reads no unit and no dataset."""
    read = []
    monkeypatch.setattr(Stage, "unit", lambda *args: read.append(args))
    monkeypatch.setattr(Stage, "committed", lambda *args: read.append(args))
    monkeypatch.setattr("ratchet.bootstrap.stages.train.read_examples", lambda *args, **kw: read.append(args))
    kept = {f: f.stat().st_mtime_ns for f in Path(killed).glob("gen-*/**/*") if f.is_file()}
    go_on(killed)
    assert not read
    assert {f: f.stat().st_mtime_ns for f in Path(killed).glob("gen-*/**/*") if f.is_file()} == kept


def test_a_truncated_unit_is_one_clear_line_and_its_remedy_works(killed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(killed, directory)
    (directory / "gen-002" / "DONE.json").unlink()
    unit = directory / "gen-002" / "simulate" / "unit-00000.array_record"
    unit.write_bytes(unit.read_bytes()[: unit.stat().st_size // 2])
    done = resume(directory, "never")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "unit-00000.array_record" in last and "resume" in last and "Traceback" not in done.stderr
    unit.unlink()  # the remedy that the line names
    go_on(directory)
    assert read_unit(unit) == read_unit(Path(killed) / "gen-002" / "simulate" / unit.name)


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(killed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(killed, directory)
    (directory / "gen-002" / "DONE.json").unlink()
    unit = directory / "gen-002" / "simulate" / "unit-00001.array_record"
    unit.unlink()
    done = resume(directory, "full")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{directory}: the disk is full or a quota is reached; free some space" in done.stderr.splitlines()[-1]
    assert not unit.exists() and not list(directory.rglob("*.tmp"))
    go_on(directory)
    assert read_unit(unit) == read_unit(Path(killed) / "gen-002" / "simulate" / unit.name)

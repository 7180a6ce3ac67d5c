"""Kill the process anywhere, resume, and weights, datasets and evaluations are bit-identical."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from support import arrays, start, tiny_config

from ratchet.bootstrap.config import from_json
from ratchet.models import decoder
from ratchet.train.checkpoint import load_weights
from ratchet.train.files import read_unit

DRIVER = Path(__file__).with_name("kill_at.py")
CONFIG = tiny_config(imitation=False)
COMMITTED_BEFORE = {
    "simulate": "simulate/unit-00000.json", "review": "simulate/unit-00001.json", "targets": "review/unit-00001.json",
    "wrongthink": "targets/unit-00001.json", "dataset": "wrongthink/unit-00000.json",
    "train": "dataset/1.0.0/dataset_info.json", "weights": "dataset/1.0.0/dataset_info.json", "evaluate": "model/0",
    "promote": "evaluation.json",
}  # fmt: skip
"""What must lie there, and thereby not be made again, when a kill point is reached."""


def go(directory, point):
    return subprocess.run(
        [sys.executable, DRIVER, directory, point], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = start(tmp_path_factory.mktemp("whole") / "run", CONFIG)
    done = go(directory, "never")
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture(scope="module")
def killed(uninterrupted, tmp_path_factory):
    """A copy of the run up to generation 1, gone on with and killed in every stage of the next, then finished."""
    directory = Path(tmp_path_factory.mktemp("killed")) / "run"
    shutil.copytree(uninterrupted, directory)
    shutil.rmtree(directory / "gen-002")
    for leftover in [*(directory / "checkpoints").glob("*-002"), directory / "report"]:
        shutil.rmtree(leftover)
    for point, before in COMMITTED_BEFORE.items():
        done = go(directory, point)
        assert done.returncode == -signal.SIGKILL, f"{point}: {done.returncode} {done.stderr[-2000:]}"
        assert (directory / "gen-002" / before).exists(), point
    done = go(directory, "never")
    assert done.returncode == 0, done.stderr
    return directory


def weights(directory, generation):
    config = from_json((epath.Path(directory) / "config.json").read_text())
    return arrays(load_weights(epath.Path(directory) / generation / "model", decoder.create(config.model, 0)[1]))


def test_the_weights_are_bit_identical(uninterrupted, killed):
    a, b = weights(uninterrupted, "gen-002"), weights(killed, "gen-002")
    assert a.keys() == b.keys()
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert any((a[name] != w).any() for name, w in weights(uninterrupted, "gen-001").items())


@pytest.mark.parametrize("stage", ["simulate", "review", "targets", "wrongthink"])
def test_every_unit_is_identical(uninterrupted, killed, stage):
    def units(directory):
        place = epath.Path(directory) / "gen-002" / stage
        commits = sorted(place.glob("unit-*.json"))
        return [(json.loads(c.read_text())["inputs"], read_unit(c.with_suffix(".array_record"))) for c in commits]

    assert units(uninterrupted) == units(killed)
    assert units(killed)


def test_the_dataset_is_identical_byte_for_byte(uninterrupted, killed):
    a, b = (Path(d) / "gen-002" / "dataset" / "1.0.0" for d in (uninterrupted, killed))
    assert sorted(f.name for f in a.iterdir()) == sorted(f.name for f in b.iterdir())
    for file in a.iterdir():
        same = file.read_bytes() == (b / file.name).read_bytes()
        assert same, file.name  # not compared in the assert: its diff of a megabyte takes a minute


@pytest.mark.parametrize(
    "name", ["evaluation", "decision", "calibration", "audit", "funnel", "samples", "wrongthink", "plan"]
)
def test_what_is_measured_is_identical(uninterrupted, killed, name):
    a, b = ((Path(d) / "gen-002" / f"{name}.json").read_text() for d in (uninterrupted, killed))
    assert json.loads(a) == json.loads(b)


def test_finished_work_is_not_done_again(killed):
    """A resumed, finished run changes no weights, units or figures."""
    kept = {f: f.stat().st_mtime_ns for f in Path(killed).glob("gen-*/**/*") if f.suffix in (".array_record", ".json")}
    kept = {f: t for f, t in kept.items() if f.name not in ("stages.json", "funnel.json", "audit.json", "samples.json")}
    assert go(killed, "never").returncode == 0
    changed = [f for f, t in kept.items() if f.stat().st_mtime_ns != t and f.name != "wrongthink.json"]
    assert not changed


def test_a_truncated_unit_is_one_clear_line_and_its_remedy_works(killed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(killed, directory)
    unit = directory / "gen-002" / "simulate" / "unit-00000.array_record"
    unit.write_bytes(unit.read_bytes()[: unit.stat().st_size // 2])
    done = go(directory, "never")
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert "unit-00000.array_record" in last and "resume" in last and "Traceback" not in done.stderr
    unit.unlink()  # the remedy that the line names
    assert go(directory, "never").returncode == 0
    assert read_unit(unit) == read_unit(Path(killed) / "gen-002" / "simulate" / unit.name)


def test_a_full_disk_is_one_clear_line_and_leaves_nothing_half_written(killed, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(killed, directory)
    unit = directory / "gen-002" / "simulate" / "unit-00001.array_record"
    unit.unlink()
    done = go(directory, "full")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{directory}: the disk is full or a quota is reached; free some space" in done.stderr.splitlines()[-1]
    assert not unit.exists() and not list(directory.rglob("*.tmp"))
    assert go(directory, "never").returncode == 0
    assert read_unit(unit) == read_unit(Path(killed) / "gen-002" / "simulate" / unit.name)

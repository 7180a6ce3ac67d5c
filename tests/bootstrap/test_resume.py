"""Kill a run anywhere, go on with it, for more generations too: what counts is bit for bit as if nothing had been."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath
from kill_at import POINTS
from runs import as_it_was, contents, different
from support import changed, little_config, start

from ratchet.bootstrap import loop
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.stages import train
from ratchet.launch import extending
from ratchet.train.files import read_unit

pytestmark = pytest.mark.long

DRIVER = Path(__file__).with_name("kill_at.py")
CONFIG = little_config(simulate__unit_tasks=1, simulate__samples=8, review__probes=1, review__practice=1)
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


def go_on(directory, config=CONFIG):
    loop.run(epath.Path(directory), config, Silent())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = start(tmp_path_factory.mktemp("whole") / "run", CONFIG)
    go_on(directory)
    return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was finished after one generation, goes on for another, is ended in every stage of it, and finished
    again."""
    short = changed(CONFIG, generations=1)
    directory = start(tmp_path_factory.mktemp("killed") / "run", short)
    go_on(directory, short)
    assert (directory / "imitation" / "evaluation.json").exists()
    extending.extend(directory, CONFIG)
    assert list(COMMITTED_BEFORE) == list(POINTS)
    for point, before in COMMITTED_BEFORE.items():
        with pytest.raises(Killed), POINTS[point](die):
            go_on(directory)
        assert (directory / "gen-002" / before).exists(), point
    go_on(directory)
    return directory


def test_a_run_that_grew_and_was_ended_in_every_stage_is_the_uninterrupted_one_bit_by_bit(uninterrupted, killed):
    assert different(uninterrupted, killed) == []
    found = contents(uninterrupted)
    assert len({found[f"{place}/model"] for place in ("gen-000", "gen-001", "gen-002", "imitation")}) == 4
    for stage in ("simulate", "review", "targets", "wrongthink", "corrections"):
        assert f"gen-002/{stage}/unit-00001.array_record" in found, "one unit alone would not show what is kept"


def resume(directory, point):
    return subprocess.run(
        [sys.executable, DRIVER, directory, point], capture_output=True, text=True, timeout=1800, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip


def test_finished_work_is_neither_done_nor_read_again(killed, monkeypatch):
    """A resumed, finished run changes no file of a generation and reads no unit and no dataset."""
    read = []
    monkeypatch.setattr(Stage, "unit", lambda *args: read.append(args))
    monkeypatch.setattr(Stage, "committed", lambda *args: read.append(args))
    monkeypatch.setattr(train, "read_examples", lambda *args, **kw: read.append(args))
    kept = {f: f.stat().st_mtime_ns for f in Path(killed).glob("gen-*/**/*") if f.is_file()}
    go_on(killed)
    assert not read
    assert {f: f.stat().st_mtime_ns for f in Path(killed).glob("gen-*/**/*") if f.is_file()} == kept


def test_what_was_trained_is_gone_on_with_without_earlier_datasets(killed, tmp_path, monkeypatch):
    directory, read, real = as_it_was(killed, tmp_path / "run", 2), [], train.read_examples
    for name in ("DONE.json", "decision.json"):
        (directory / "gen-002" / name).unlink()
    monkeypatch.setattr(train, "read_examples", lambda place, **of: read.append(place) or real(place, **of))
    alone = changed(CONFIG, controls__imitation=False)
    go_on(start(directory, alone), alone)
    assert read == [directory / "gen-002" / "dataset" / "1.0.0"]


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

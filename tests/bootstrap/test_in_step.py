"""The loop over two processes, killed without warning and gone on with: what counts is bit for bit as one process makes
it on as many devices."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import portpicker
import pytest
from processes import FOR_EVER
from runs import contents, different
from support import little_config, start

from ratchet.train.stopping import AGAIN

pytestmark = pytest.mark.long

DRIVER = Path(__file__).with_name("kill_at.py")
CONFIG = little_config(
    generations=1, simulate__unit_tasks=1, simulate__samples=8, review__probes=1, review__practice=1,
    controls__imitation=False,
)  # fmt: skip


def resume(directory, processes: int, points=("never",) * 2) -> list[subprocess.CompletedProcess]:
    """Goes on with a run in so many processes that have two devices together, each killed at a point of its own."""
    port = portpicker.pick_unused_port()
    around = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
        "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(2 // processes), "NPROC": "2",
    }  # fmt: skip
    joined = [["--join", f"localhost:{port}/{processes}/{n}"] if processes > 1 else [] for n in range(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, DRIVER, directory, point, *words], env=around, **pipes)
        for point, words in zip(points, joined, strict=False)
    ]
    said = [process.communicate(timeout=FOR_EVER) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *both)
        for process, both in zip(started, said, strict=True)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run that one process has made."""
    directory = start(tmp_path_factory.mktemp("one") / "run", CONFIG)
    (ended,) = resume(directory, 1)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return directory


def test_two_processes_of_which_one_is_killed_make_what_one_makes(alone, tmp_path):
    """First the process that writes dies without warning, with a unit half written; then the other one, while both
    train. Whichever is left ends by itself, and whoever started them starts both again."""
    directory = start(tmp_path / "run", CONFIG)
    for points, before in ((("simulate", "never"), "simulate/unit-00000.json"), (("never", "train"), "dataset/1.0.0")):
        ended = resume(directory, 2, points)
        died, left = (ended[points.index(point)] for point in sorted(points, key="never".__eq__))
        assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
        assert left.returncode in (AGAIN, -signal.SIGABRT), left.stderr[-2000:]
        assert (directory / "gen-001" / before).exists()
        # JAX ends it where that hears first, which depends on the machine: the contract has both.
        assert left.returncode != AGAIN or "another process is gone" in left.stderr.splitlines()[-1]
    ended = resume(directory, 2)
    assert [one.returncode for one in ended] == [0, 0], [one.stderr[-2000:] for one in ended]
    assert ended[1].stdout == "" and f"report: {directory}" in ended[0].stdout and "Gloo" not in ended[0].stdout
    assert different(alone, directory) == []
    assert {"gen-000/model", "gen-001/model"} <= contents(alone).keys()


def test_two_processes_that_compile_ahead_make_what_one_makes(tmp_path):
    """With the shapes of accelerators, each of them compiles, beside the seed model's training, what comes next."""
    places = [start(tmp_path / name / "run", CONFIG) for name in ("one", "two")]
    for processes, place in enumerate(places, 1):
        ended = resume(place, processes, ("few",) * processes)
        assert [one.returncode for one in ended] == [0] * processes, [one.stderr[-2000:] for one in ended]
        assert all("compiled ahead" in one.stderr for one in ended)
        assert "compiling ahead has ended" not in ended[0].stdout + ended[0].stderr
    assert different(*places) == []

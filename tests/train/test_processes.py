"""Four processes on this machine, each with a device of its own: the loss curve of one, and resume with two."""

from pathlib import Path

import jax
import processes
import pytest
import worker

from ratchet.train.sharding import make_mesh

pytestmark = pytest.mark.long


def losses(count, directory, last=-1):
    """The loss by step, which all processes have to agree on."""
    ended = processes.run(Path(worker.__file__), count, directory, last)
    if last < 0:
        assert not any(one.returncode for one in ended), ended[0].stderr[-2000:]
    lines = [[line.split() for line in one.stdout.splitlines() if line.startswith("step ")] for one in ended]
    curves = [{int(step): float(loss) for _, step, loss in mine} for mine in lines]
    assert all(curve == curves[0] for curve in curves), ended[0].stderr[-2000:]
    return curves[0]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The loss by step in this process, which has as many devices of its own."""
    found = {}
    mesh = make_mesh(worker.LAID, jax.devices()[:4])
    worker.train(mesh, tmp_path_factory.mktemp("one"), lambda step, values: found.update({step: values["loss"]}))
    return found


def test_four_processes_have_the_loss_curve_of_one_and_two_go_on_from_what_they_saved(alone, tmp_path):
    before = losses(4, tmp_path, last=8)
    assert sorted(before) == list(range(9))
    assert before == pytest.approx({step: alone[step] for step in before}, rel=1e-5)
    after = losses(2, tmp_path)
    assert min(after) in (6, 9) and max(after) == 11  # 9 may still have been in flight
    assert after == pytest.approx({step: alone[step] for step in after}, rel=1e-5)

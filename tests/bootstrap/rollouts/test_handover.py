"""Weights are handed over by one process as by several, of which one writes."""

from pathlib import Path

import giver
import jax
import numpy as np
import processes
import pytest
from etils import epath
from safetensors.numpy import load_file

from ratchet.train.sharding import make_mesh
from ratchet.train.together import ALONE


@pytest.mark.long
def test_two_processes_hand_over_what_one_does(tmp_path):
    one = giver.give(make_mesh(giver.LAID, jax.devices()[:4]), epath.Path(tmp_path / "one"), ALONE)
    ended = processes.run(Path(giver.__file__), 2, tmp_path / "two")
    assert not any(process.returncode for process in ended), ended[0].stderr[-2000:] + ended[1].stderr[-2000:]
    told = [[line for line in process.stdout.splitlines() if line.startswith("said")] for process in ended]
    assert told == [[" ".join(["said", one.folder, *sorted(one.known)])]] * 2
    name = one.folder.removeprefix("/seen/")
    alone, together = (load_file(tmp_path / of / name / "model.safetensors") for of in ("one", "two"))
    assert alone.keys() == together.keys() and len(alone) > 10
    for tensor in alone:
        np.testing.assert_array_equal(alone[tensor], together[tensor])
    for of in ("one", "two"):
        assert [path.name for path in (tmp_path / of).glob("gen-*")] == [name]
        assert len(list((tmp_path / of / "logs").iterdir())) == 2

"""What does not fit the devices of a mesh is refused before a run begins."""

from types import SimpleNamespace

import pytest
from support import little_config

from ratchet.bootstrap import engines
from ratchet.bootstrap.config import Config


def asked(config: Config, **axes: int) -> None:
    mesh = SimpleNamespace(shape={"data": 1, "fsdp": 1, "tensor": 1} | axes)
    engines.sampler(config, None, mesh)


def test_slots_that_do_not_fill_a_mesh_are_refused():
    with pytest.raises(ValueError, match="simulate.slots: 16 do not divide over 3 devices; make it a multiple of 3"):
        asked(little_config(simulate__slots=16), fsdp=3)


def test_a_vocabulary_that_does_not_divide_is_refused_before_the_loss_meets_it():
    with pytest.raises(ValueError, match="mesh.tensor: a vocabulary of 641 does not divide over 2 devices; take 1, or"):
        asked(little_config(simulate__slots=16, model__vocab_size=641), tensor=2)

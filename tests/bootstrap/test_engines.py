"""What does not fit the devices of a mesh is refused before a run begins, or not tried beside training."""

from types import SimpleNamespace

import jax
import pytest
from support import changed, little_config

from ratchet.bootstrap import ahead, engines
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


def test_a_sampler_is_rehearsed_where_it_leaves_training_most_of_a_device(little_run):
    model = little_run.config.model
    cache = 1000 * model.max_length * model.layers * model.kv_heads * model.head_size * 2 * 4
    needed = 2 * (sum(x.nbytes for x in jax.tree.leaves(little_run.fresh_weights())) + cache) * 32

    def fits(memory: int, base: str = "") -> bool:
        config = changed(little_run.config, simulate__slots=1000, base=base)
        devices = SimpleNamespace(flat=[SimpleNamespace(memory_stats=lambda: {"bytes_limit": memory})])
        return ahead._has_room(SimpleNamespace(config=config, mesh=SimpleNamespace(size=1, devices=devices)))

    assert fits(needed) and not fits(needed - 32) and not fits(needed, base="m")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.train import optimizer
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import AXES, MeshConfig, batch_sharding, make_mesh, own_rows, place_batch, state_sharding


def specs(mesh, state):
    return {
        jax.tree_util.keystr(path): sharding.spec
        for path, sharding in jax.tree_util.tree_leaves_with_path(state_sharding(mesh, state))
    }


def params(**sizes):
    return decoder.create(DecoderConfig(**{"vocab_size": 64, "width": 32, "heads": 4, "kv_heads": 4} | sizes), 0)[1]


def find(found, name):
    return next(spec for path, spec in found.items() if f"'{name}'" in path or f".{name}" in path)


def test_the_mesh_always_has_all_axes_and_takes_all_devices():
    assert make_mesh(MeshConfig()).shape == dict(zip(AXES, (8, 1, 1), strict=True))
    assert make_mesh(MeshConfig(fsdp=2, tensor=2)).shape == dict(zip(AXES, (2, 2, 2), strict=True))
    assert make_mesh(MeshConfig(), jax.devices()[:1]).size == 1


def test_fsdp_may_take_what_is_left_and_data_the_slices():
    assert make_mesh(MeshConfig(-1, -1, 2)).shape == dict(zip(AXES, (1, 4, 2), strict=True))
    assert make_mesh(MeshConfig(2, -1, 1)).shape == dict(zip(AXES, (2, 4, 1), strict=True))


def test_every_row_belongs_to_the_processes_that_hold_it():
    mesh = make_mesh(MeshConfig(2, 2, 2))
    np.testing.assert_array_equal(own_rows(mesh, 8), np.arange(8))  # there is one process here
    placed = place_batch(mesh, 8, {"x": np.arange(16).reshape(8, 2)})["x"]
    np.testing.assert_array_equal(placed, np.arange(16).reshape(8, 2))
    assert placed.sharding == batch_sharding(mesh)


@pytest.mark.parametrize("config", [MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(4, 4, 1)])
def test_sizes_that_do_not_make_the_devices_are_refused(config):
    with pytest.raises(ValueError, match="does not make 8 devices; change --mesh"):
        make_mesh(config)


def test_parameters_are_split_by_name():
    found = specs(make_mesh(MeshConfig(2, 2, 2)), params())
    assert find(found, "embedding") == P("tensor", "fsdp")
    assert find(found, "query") == P(None, "fsdp", "tensor", None)
    assert find(found, "output") == P(None, "tensor", None, "fsdp")
    assert find(found, "down") == P(None, "tensor", "fsdp")
    assert find(found, "final_norm") == find(found, "attention_norm") == P()
    assert batch_sharding(make_mesh(MeshConfig(2, 2, 2))).spec == P(("data", "fsdp"))


def test_what_an_axis_does_not_divide_stays_whole_along_it():
    found = specs(make_mesh(MeshConfig(1, 2, 4)), params(width=48, heads=6, kv_heads=6))
    assert find(found, "key") == find(found, "query") == P(None, "fsdp", None, None)
    assert find(found, "up") == P(None, "fsdp", "tensor")
    found = specs(make_mesh(MeshConfig(1, 1, 8)), params(vocab_size=66, heads=4, kv_heads=4))
    assert find(found, "embedding") == P(None, "fsdp")


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_optimizer_state_lies_where_its_parameter_lies(kind):
    weights = params()
    state = optimizer.create(OptimizerConfig(kind=kind)).init(weights)
    placed = jax.device_put(state, state_sharding(make_mesh(MeshConfig(1, 4, 2)), state))
    for path, leaf in jax.tree_util.tree_leaves_with_path(placed):
        name = jax.tree_util.keystr(path)
        assert isinstance(leaf, jax.Array)
        if "'down'" in name and leaf.ndim == 3:
            assert leaf.sharding.spec == P(None, "tensor", "fsdp")
        if jnp.ndim(leaf) == 0:
            assert leaf.sharding.spec == P()

import jax
import jax.numpy as jnp
import pytest

from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train.flops import CHIPS, chip_of, layer_weights, mfu, step_flops, traced_flops


def test_chips_are_found_by_the_longest_beginning_of_their_kind():
    assert chip_of("NVIDIA H100 80GB HBM3") is CHIPS["NVIDIA H100"]
    assert chip_of("NVIDIA A100-SXM4-80GB").memory == 2 * chip_of("NVIDIA A100-SXM4-40GB").memory == 80 * 2**30
    assert chip_of("TPU v5 lite") is CHIPS["TPU v5 lite"] and chip_of("TPU v5").flops == 459e12
    assert chip_of("cpu") is None and mfu(1e12, 1.0, jax.devices()) is None


def test_the_formula_is_that_of_a_llama_layer():
    heads = {"heads": 8, "kv_heads": 2, "head_width": 16}
    c = DecoderConfig(vocab_size=1000, width=64, layers=3, mlp_width=128, family=Family(gated=True), **heads)
    assert layer_weights(c) == 64 * 128 + 2 * 64 * 32 + 128 * 64 + 3 * 64 * 128
    assert step_flops(c, 10, 0, 100) == 10 * 3 * 6 * (layer_weights(c) + 8 * 16 * 100)
    assert step_flops(c, 0, 10, 100) == 6 * 64 * 1000 * 10
    assert step_flops(c, 10, 0, 100, frozen=True) == 10 * 3 * (4 * layer_weights(c) + 6 * 8 * 16 * 100)
    assert step_flops(c, 0, 10, 100, frozen=True) == 4 * 64 * 1000 * 10


@pytest.mark.parametrize("length", [1, 7])
def test_loops_branches_and_derivatives_are_counted(length):
    a = jnp.ones((4, 8))

    def step(x, _):
        return jax.lax.cond(x.sum() > 0, lambda y: a @ (a.T @ y), lambda y: y, x), None

    once = 2 * 4 * 8 * 3 * 2
    assert traced_flops(lambda x: jax.lax.scan(step, x, None, length)[0], jnp.ones((4, 3))) == once * length
    assert traced_flops(jax.grad(lambda w: jnp.sum(jnp.sin(a @ w))), jnp.ones((8, 3))) == 2 * (2 * 4 * 8 * 3)
    assert traced_flops(jax.checkpoint(lambda w: a @ w), jnp.ones((8, 3))) == 2 * 4 * 8 * 3

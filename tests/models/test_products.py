"""Matrices side by side give what they give apart; GPUs alone have them so."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from support import requests

from ratchet.models import decoder, products
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.kernels import Kernel
from ratchet.models.products import FIRST, embed, joined, matmul
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding

SIZES = {"vocab_size": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 48, "max_length": 64}


def model(biases: tuple[str, ...] = (), **traits):
    config = DecoderConfig(**SIZES, conv=1, family=Family("x", biases=biases, **traits))
    graphdef, params = decoder.create(config, 0)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return graphdef, jax.tree.unflatten(treedef, noisy)


@pytest.mark.long
def test_what_is_said_and_scored_is_the_same(monkeypatch):
    graphdef, params = model(("query", "key", "value"), gated=True, query_key_norm=True)
    rows = slots_sharding(make_mesh(MeshConfig(), jax.devices()[:1]))

    def asked(joins: bool):
        monkeypatch.setattr(Kernel, "joins", joins)
        sampler = Sampler(graphdef, slots=8, new_tokens=6, keep=4, rows=rows)
        said = sampler(params, requests(9, longest=20), seed=0, temperature=1.0, stop=(1,))
        pairs = [(r.prompt, r.prompt[:5]) for r in requests(6, longest=20)]
        names = sampler.weights(params).layers[0].keys()
        assert ("query_key_value_bias" in names) == ("gate_up" in names) == joins
        return [s.tokens.tolist() for s in said], Scorer(graphdef, questions=8, rows=rows)(params, pairs, (5, 9))

    (said, found), (plainly_said, plain) = asked(True), asked(False)
    assert said == plainly_said
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_what_has_no_partners_stays_as_it_is():
    weights = {name: jnp.ones((2, 3)) for name in ("up", "down")}
    assert joined(weights) == weights
    heads = {name: jnp.ones((2, 3, 4)) for name in ("query", "key", "value", "query_bias")}
    assert joined(heads) == heads, "a bias of one alone would be lost"
    assert FIRST["gate_up_bias"] == "gate_bias"


def test_gpus_alone_join_and_not_where_heads_are_split(monkeypatch):
    split = Kernel("auto", slots_sharding(make_mesh(MeshConfig(data=4, tensor=2))))
    assert not Kernel().joins
    monkeypatch.setattr(Kernel, "platform", "gpu")
    assert Kernel().joins and not split.joins
    assert Kernel("auto", slots_sharding(make_mesh(MeshConfig(data=8)))).joins


def test_a_single_token_of_a_gpu_is_multiplied_among_eight(monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(1, 1, 8)).astype(np.float32), rng.normal(size=(8, 5)).astype(np.float32)
    plain = matmul(x, weight)
    monkeypatch.setattr(products, "platform", lambda: "gpu")
    np.testing.assert_allclose(matmul(x, weight), plain, rtol=1e-5)
    assert matmul(x, weight).shape == (1, 1, 5)
    assert matmul(x[0].astype(jnp.bfloat16), weight.astype(jnp.bfloat16), jnp.float32).dtype == jnp.float32


def test_the_gradients_of_a_token_that_stands_everywhere_are_added_up_in_float32():
    """In bfloat16, 256 and 1 are 256."""
    embedding_VD = jax.random.normal(jax.random.key(0), (8, 4))
    tokens_BT = jnp.zeros((2, 2000), jnp.int32).at[0, 0].set(5)
    rows_BTD, pull = jax.vjp(lambda e: embed(e, tokens_BT, jnp.bfloat16), embedding_VD)
    np.testing.assert_array_equal(rows_BTD, embedding_VD.astype(jnp.bfloat16)[tokens_BT])
    (gradient_VD,) = pull(jnp.ones_like(rows_BTD))
    assert gradient_VD.dtype == jnp.float32
    np.testing.assert_array_equal(gradient_VD[:, 0], [3999, 0, 0, 0, 0, 1, 0, 0])


@pytest.mark.parametrize(("rows", "width"), [(P(("data", "fsdp")), 8), (P(("data", "fsdp")), 6), (P("fsdp"), 8)])
def test_gradients_of_rows_over_a_mesh_are_those_of_one_chip(rows, width):
    """Also where the chips do not divide the width."""
    embedding_VD = jax.random.normal(jax.random.key(0), (10, width))
    tokens_BT = jax.random.randint(jax.random.key(1), (8, 16), 0, 10)
    grad_BTD = jax.random.normal(jax.random.key(2), (8, 16, width)).astype(jnp.bfloat16)

    def gradient(embedding_VD, tokens_BT, grad_BTD, rows):
        return jax.vjp(lambda e: embed(e, tokens_BT, jnp.bfloat16, rows), embedding_VD)[1](grad_BTD)[0]

    want_VD = gradient(embedding_VD, tokens_BT, grad_BTD, None)
    with jax.set_mesh(jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)):
        got_VD = jax.jit(gradient, static_argnums=3)(embedding_VD, tokens_BT, grad_BTD, rows)
    np.testing.assert_allclose(got_VD, want_VD, rtol=1e-5, atol=1e-5)


def test_gradients_of_rows_change_chips_before_they_are_wider():
    """Each chip then adds up its own part of the width for all rows; it is not sent whole rows."""
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows, tokens_BT = P(("data", "fsdp")), jnp.zeros((8, 16), jnp.int32)

    def gradient(embedding_VD, grad_BTD):
        grad_BTD = jax.lax.with_sharding_constraint(grad_BTD, rows)
        return jax.vjp(lambda e: embed(e, tokens_BT, jnp.bfloat16, rows), embedding_VD)[1](grad_BTD)[0]

    with jax.set_mesh(mesh):
        step = jax.jit(gradient, out_shardings=jax.sharding.NamedSharding(mesh, P(None, "fsdp")))
        args = jnp.zeros((512, 64)), jnp.zeros((8, 16, 64), jnp.bfloat16)
        text, traced = step.lower(*args).compile().as_text(), str(jax.make_jaxpr(gradient)(*args))
    assert " all-to-all(" in text and not re.search(r"\[8,16,64\][^=]* all-gather\(", text)
    assert traced.rindex("sharding_constraint") < traced.rindex("convert_element_type[new_dtype=float32")


def test_a_bfloat16_step_adds_up_embeddings_as_a_float32_step_does():
    graphdef, params = model(tied=False, scaled_embedding=False)
    tokens_1T, segments_1T = jnp.full((1, 2048), 3), jnp.repeat(jnp.arange(1, 65), 32)[None]
    positions_1T = jnp.tile(jnp.arange(32), 64)[None]
    direction_D = jax.random.normal(jax.random.key(2), (32,))

    def gradient(dtype):
        def total(params):
            hidden_BTD = nnx.merge(graphdef, params)(tokens_1T, positions_1T, segments_1T, dtype=dtype)
            return jnp.sum(hidden_BTD.astype(jnp.float32) @ direction_D)

        return jax.jit(jax.grad(total))(params)["embedding"][...]

    exact_VD, rounded_VD = gradient(None), gradient(jnp.bfloat16)
    assert jnp.linalg.norm(rounded_VD[3] - exact_VD[3]) < 0.1 * jnp.linalg.norm(exact_VD[3])

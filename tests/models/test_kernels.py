"""Kernels against matrix products. TPU's runs by its interpreter here; that it compiles is in launch/test_preflight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import requests

from ratchet.models import decoder
from ratchet.models.attention import attend, attend_packed, causal_mask
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import NO_WINDOW, Family
from ratchet.models.kernels import Kernel, Scores, attend_cache, attend_rows, fused
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding

SPLASH = Kernel("splash")
ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 4, 150, 4, 2, 16


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(rng.normal(size=(ROWS, LENGTH, heads, WIDTH)), jnp.float32)
    return draw(HEADS), draw(KV_HEADS), draw(KV_HEADS)


@pytest.fixture(scope="module")
def segments():
    found = np.sort(np.random.default_rng(1).integers(1, 4, (ROWS, LENGTH)), axis=1)
    return jnp.asarray(np.where(np.arange(LENGTH) < LENGTH - 9, found, 0))


@pytest.mark.parametrize(
    ("sliding", "scores"),
    [(None, Scores(0.25)), (True, Scores(0.3, window=40)), (False, Scores(0.25, softcap=4.0, window=40))],
)
def test_splash_attends_as_matrix_products_do_and_so_do_its_gradients(operands, segments, sliding, scores):
    window = None if sliding is None else jnp.where(sliding, scores.window, NO_WINDOW)
    real = (segments > 0)[..., None, None]

    def loss(function):
        def scalar(operands):
            mixed = function(*operands)
            return jnp.sum(jnp.sin(mixed) * real), mixed * real

        return jax.value_and_grad(scalar, has_aux=True)

    slides = None if sliding is None else jnp.asarray(sliding)  # traced, as a scanned layer has it
    by_kernel = lambda q, k, v: attend_rows(q, k, v, segments, slides, window, scores, SPLASH)
    plainly = lambda q, k, v: attend_packed(q, k, v, segments, window, scores.scale, scores.softcap)
    (_, found), gradients = jax.jit(loss(by_kernel))(operands)
    (_, expected), plain_gradients = jax.jit(loss(plainly))(operands)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for one, other in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_over_a_mesh_each_device_attends_to_its_own(operands, segments):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    kernel = Kernel("splash", NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor")))
    run = lambda kernel: jax.jit(lambda *o: attend_rows(*o, segments, None, None, Scores(0.25), kernel))(*operands)
    np.testing.assert_allclose(run(kernel), run(SPLASH), atol=1e-6)


def test_new_tokens_of_a_cache_see_what_lies_before_them():
    """Contexts padded on the left, questions on the right, in a cache with room left over."""
    rng, first, new = np.random.default_rng(2), 20, 12
    q = jnp.asarray(rng.normal(size=(3, new, HEADS, WIDTH)), jnp.float32)
    k, v = jnp.asarray(rng.normal(size=(2, 3, KV_HEADS, first + new + 5, WIDTH)), jnp.float32)
    lengths, asked = np.array([0, 7, 20]), np.array([12, 5, 1])
    columns = np.arange(first + new + 5)
    real = (columns >= first - lengths[:, None]) & (columns < first + asked[:, None])
    positions_BS = jnp.asarray(np.where(real, columns - first + lengths[:, None], -1))
    positions_BT = jnp.maximum(positions_BS[:, first : first + new], 0)
    ask = lambda kernel, sliding, scores: attend_cache(
        q, k, v, positions_BT, positions_BS, sliding, scores.window if sliding else None, scores, kernel, first
    )
    for sliding, scores in ((None, Scores(0.25)), (True, Scores(0.25, 2.0, window=6))):
        found, expected = (ask(Kernel(name), sliding, scores) for name in ("splash", "plain"))
        for row, count in enumerate(asked):
            np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=2e-6)


def test_a_model_with_sliding_layers_answers_alike():
    family = Family("x", sliding=(True, False), window=24, attention_softcap=5.0, gated=True)
    sizes = {"vocab_size": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 64, "max_length": 160}
    graphdef, params = decoder.create(DecoderConfig(**sizes, conv=1, family=family), 0)
    asked = [(r.prompt, r.prompt[:5]) for r in requests(6, longest=60)]
    found, plain = (
        Scorer(graphdef, questions=6, attention=name)(params, asked, (5, 9)) for name in ("splash", "plain")
    )
    np.testing.assert_allclose(found, plain, atol=1e-6)


def test_what_gpus_run_is_the_same_attention(operands, segments, monkeypatch):
    """By XLA, which JAX gives the same operands to: cuDNN's own kernel needs a GPU. On one device and over a mesh."""
    by_jax, asked = jax.nn.dot_product_attention, []

    def by_xla(*operands, implementation, **settings):
        asked.append(implementation)
        return by_jax(*operands, implementation="xla", **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    q, k, v = operands
    columns = jnp.arange(LENGTH)[None]
    mask = causal_mask(columns, columns, 30) & (segments[:, :, None] == segments[:, None])
    plain = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, 0.25)
    for kernel in (Kernel(), Kernel("auto", slots_sharding(make_mesh(MeshConfig(data=4, tensor=2))))):
        found = jax.jit(lambda *o, kernel=kernel: fused(*o, mask, 0.25, kernel))(q, k, v)
        np.testing.assert_allclose(found, plain, atol=2e-6)
    assert set(asked) == {"cudnn"}


def test_the_kernel_is_the_devices_own_where_it_can_be():
    choose = lambda kernel, rows=8, kv_heads=2: kernel.chosen(
        jnp.zeros((rows, 64, 8, 16)), kv_heads, 64, Scores(0.25)
    )
    assert choose(Kernel()) == "plain"
    assert choose(SPLASH) == "splash"
    mesh = Kernel("splash", slots_sharding(make_mesh(MeshConfig(data=2, tensor=4))))
    assert choose(mesh) == "plain", "two heads cannot be split in four"
    assert choose(mesh, kv_heads=4) == "splash"
    assert choose(mesh, kv_heads=4, rows=3) == "plain"
    with pytest.raises(ValueError, match=r"cudnn needs a GPU and here is a cpu; leave it at auto"):
        choose(Kernel("cudnn"))


@pytest.mark.parametrize(
    ("width", "length", "dtype", "softcap", "runs"),
    [(64, 32, "bfloat16", 0.0, "cudnn"), (20, 32, "bfloat16", 0.0, "plain"), (256, 32, "bfloat16", 0.0, "plain"),
     (64, 33, "bfloat16", 0.0, "plain"), (64, 32, "float32", 0.0, "plain"), (64, 32, "bfloat16", 5.0, "plain")],
)
def test_what_cudnn_refuses_is_left_to_matrix_products(monkeypatch, width, length, dtype, softcap, runs):
    monkeypatch.setattr(Kernel, "platform", "gpu")
    q = jnp.zeros((2, length, 4, width), dtype)
    assert Kernel().chosen(q, 2, length, Scores(0.25, softcap)) == runs

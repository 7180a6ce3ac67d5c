import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import awaken

from ratchet.models import decoder, layer
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family


@jax.jit(static_argnums=0)
def forward(graphdef, params, tokens, positions, segments):
    return nnx.merge(graphdef, params)(tokens, positions, segments)


@jax.jit(static_argnums=0)
def extend(graphdef, params, tokens, real, cache, column):
    model = nnx.merge(graphdef, params)
    return model.extend(model.unstacked(), tokens, real, cache, column)


def alone(small, tokens):
    """Hidden states [T, D] of one sequence by the packed forward."""
    t = np.asarray(tokens)[None]
    return np.asarray(forward(*small, t, np.arange(t.shape[1])[None], np.ones_like(t)))[0]


def test_cached_extension_equals_the_packed_forward_whatever_the_left_padding(small):
    rng = np.random.default_rng(0)
    width, steps, lengths = 10, 6, (1, 4, 9, 10)
    rows = [rng.integers(2, 64, n + steps) for n in lengths]
    prompt, real = np.zeros((4, width), np.int32), np.zeros((4, width), bool)
    for i, (n, row) in enumerate(zip(lengths, rows, strict=True)):
        prompt[i, width - n :], real[i, width - n :] = row[:n], True
    cache = nnx.merge(*small).new_cache(4, width + steps)
    hidden, cache = extend(*small, prompt, real, cache, 0)
    expected = [alone(small, row) for row in rows]
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(hidden[i, width - n :], expected[i][:n], atol=2e-5)
    for step in range(steps):
        token = np.array([[row[n + step]] for n, row in zip(lengths, rows, strict=True)], np.int32)
        hidden, cache = extend(*small, token, np.ones((4, 1), bool), cache, width + step)
        for i, n in enumerate(lengths):
            np.testing.assert_allclose(hidden[i, 0], expected[i][n + step], atol=2e-5)


@pytest.mark.parametrize("int8", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("family", [Family(), Family(sliding=(True, False, True), window=4, local_rope_base=100.0)])
def test_a_loop_over_layers_extends_as_each_on_its_own(family, int8):
    sizes = {"vocab_size": 64, "width": 32, "layers": 3, "heads": 4, "kv_heads": 2, "mlp_width": 64}
    graphdef, params = decoder.create(DecoderConfig(**sizes, max_length=32, family=family), 0)
    model = nnx.merge(graphdef, awaken(params))
    rng = np.random.default_rng(0)
    tokens, real = rng.integers(2, 64, (2, 2, 8)), np.ones((2, 8), bool)
    real[1, :3] = False
    found = []
    for layers in (model.unstacked(), None):
        cache = model.extend(layers, tokens[0], real, model.new_cache(2, 16, int8), 0)[1]
        found.append(model.extend(layers, tokens[1], np.ones((2, 8), bool), cache, 8))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1 if int8 else 1e-5), *found)
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    assert jax.tree.structure(found[0]) == jax.tree.structure(found[1])


def test_segments_of_a_row_do_not_see_each_other(small):
    rng = np.random.default_rng(1)
    a, b = rng.integers(2, 64, 7), rng.integers(2, 64, 9)
    tokens = np.concatenate([a, b])[None]
    positions = np.concatenate([np.arange(7), np.arange(9)])[None]
    segments = np.repeat([1, 2], [7, 9])[None]
    packed = np.asarray(forward(*small, tokens, positions, segments))[0]
    changed = tokens.copy()
    changed[0, :7] = (changed[0, :7] + 5) % 62 + 2
    again = np.asarray(forward(*small, changed, positions, segments))[0]
    np.testing.assert_array_equal(packed[7:], again[7:])
    assert not np.array_equal(packed[:7], again[:7])
    np.testing.assert_allclose(packed[7:], alone(small, b), atol=2e-5)
    np.testing.assert_allclose(packed[:7], alone(small, a), atol=2e-5)


def test_no_position_sees_a_later_token(small):
    tokens = np.random.default_rng(2).integers(2, 64, 12)
    before = alone(small, tokens)
    for at in (0, 5, 11):
        changed = tokens.copy()
        changed[at] = (changed[at] + 7) % 62 + 2
        after = alone(small, changed)
        np.testing.assert_array_equal(before[:at], after[:at])
        assert not np.array_equal(before[at], after[at])


def test_creation_is_a_function_of_the_seed(small):
    config = DecoderConfig(vocab_size=16, width=8, layers=1, heads=2, kv_heads=1, mlp_width=8)
    a, b, other = (decoder.create(config, seed)[1] for seed in (3, 3, 4))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, a, b))
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, a, other))


def test_shapes_are_those_of_a_created_decoder_also_of_one_that_fits_into_no_memory(small):
    graphdef, params = small
    described, shapes = decoder.shapes(nnx.merge(graphdef, params).config)
    assert described == graphdef
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), params)
    _, vast = decoder.shapes(DecoderConfig(vocab_size=10**6, width=2**20, heads=2**13, kv_heads=2**13, layers=1000))
    assert sum(x.size for x in jax.tree.leaves(vast)) > 10**15


@pytest.mark.parametrize("sizes", [{"heads": 3}, {"width": 36, "heads": 12}, {"heads": 4, "kv_heads": 3}])
def test_sizes_that_do_not_fit_are_one_clear_line(sizes):
    with pytest.raises(ValueError, match="heads must divide width") as caught:
        decoder.create(DecoderConfig(**{"width": 32, "heads": 4, "kv_heads": 4} | sizes), 0)
    assert "\n" not in str(caught.value)


def test_logits_of_rounded_states_and_weights_are_not_rounded_again(small):
    """In bfloat16 they would be steps of an eighth where they are large: greedy choices would tie."""
    model, rng = nnx.merge(*small), np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(8, 32)) * 4, jnp.bfloat16)
    head = jnp.asarray(rng.normal(size=(32, 500)), jnp.bfloat16)
    exact = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    found = model.logits(hidden, head)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=1e-4)
    assert (found.argmax(-1) == exact.argmax(-1)).all()


def test_gemmas_norms_are_rounded_once():
    """As transformers computes them; in bfloat16, one more than a scale has a rounding of its own."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, 128)), jnp.bfloat16)
    scale = jnp.asarray(3 + 2 * rng.normal(size=128), jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6) * (1 + np.asarray(scale, np.float64))
    found = np.asarray(layer.norm(x, scale, Family(norm_offset=True, norm_epsilon=1e-6)), np.float64)
    assert np.max(np.abs(found - exact) / np.abs(exact)) <= 2.0**-8


def test_what_is_computed_again_is_not_kept():
    config = DecoderConfig(vocab_size=64, width=32, layers=4, heads=4, kv_heads=4, mlp_width=64, max_length=64)
    graphdef, params = decoder.shapes(config)
    rows = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    kept = {}
    for remat in ("none", "full"):
        loss = lambda params, *rows, remat=remat: nnx.merge(graphdef, params)(*rows, remat=remat).sum()
        compiled = jax.jit(jax.grad(loss)).lower(params, rows, rows, rows).compile()
        kept[remat] = compiled.memory_analysis().temp_size_in_bytes
    assert kept["full"] < 0.6 * kept["none"]

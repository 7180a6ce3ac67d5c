import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ratchet.models.attention import attend, attend_packed, causal_mask, quantized, rotate
from ratchet.models.family import Family, frequencies


def reference(q, k, v, mask):
    """Float64, one head at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    share = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for h in range(q.shape[2]):
        scores = np.einsum("bte,bse->bts", q[:, :, h], k[:, :, h // share]) / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max(-1, keepdims=True)) * mask
        out[:, :, h] = np.einsum("bts,bse->bte", weights / weights.sum(-1, keepdims=True), v[:, :, h // share])
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_attention_equals_a_float64_reference(heads, kv_heads):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 5, heads, 8)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 7, kv_heads, 8)).astype(np.float32)
    mask = rng.random((2, 5, 7)) < 0.6
    mask[..., 0] = True
    got = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), jnp.asarray(mask), 8**-0.5)
    np.testing.assert_allclose(got, reference(q, k, v, mask), atol=2e-6)


def test_what_is_masked_changes_nothing():
    rng = np.random.default_rng(1)
    q, k, v = rng.normal(size=(3, 1, 4, 2, 8)).astype(np.float32)
    mask = np.tril(np.ones((1, 4, 4), bool))
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    other = [np.concatenate([x[:, :, :3], x[:, :, 3:] + 9], axis=2) for x in (k, v)]
    np.testing.assert_array_equal(attend(q, k, v, mask, 0.3)[:, :3], attend(q, *other, mask, 0.3)[:, :3])


def test_rotary_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(2)
    q, k = rng.normal(size=(2, 1, 1, 1, 16)).astype(np.float32)

    turn = frequencies(Family(), 16)

    def score(at, other):
        return float(jnp.sum(rotate(q, jnp.array([[at]]), turn) * rotate(k, jnp.array([[other]]), turn)))

    assert score(9, 4) == pytest.approx(score(5, 0), abs=1e-5)
    assert score(40, 33) == pytest.approx(score(107, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
    np.testing.assert_array_equal(rotate(q, jnp.array([[0]]), turn), q)


@pytest.mark.parametrize("length", [7, 176, 321, 801])
def test_blocks_of_queries_give_what_the_square_gives(length):
    """Lengths of one block, of two, of four and of eight with a shorter last."""
    rng = np.random.default_rng(length)
    q, k, v = (jnp.asarray(rng.normal(size=(2, length, heads, 6)), jnp.float32) for heads in (4, 2, 2))
    segments = jnp.asarray(np.sort(rng.integers(0, 4, (2, length)), axis=1))
    rows = jnp.arange(length)[None]
    for window in (None, 5):
        mask = causal_mask(rows, rows, window) & (segments[:, :, None] == segments[:, None, :])
        assert bool(causal_mask(rows, rows, window)[0, -1, 0]) == (window is None or length <= window)
        whole = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, 0.4, 3.0)
        blocks = jax.jit(lambda q, k, v, window=window: attend_packed(q, k, v, segments, window, 0.4, 3.0))(q, k, v)
        np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-6)


def test_bytes_are_within_half_a_step_of_what_they_stand_for():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 5, 8)), jnp.float32)
    x = x.at[0, 0, 0].set(0.0)
    kept = quantized(x)
    assert kept.codes.dtype == jnp.int8 and int(jnp.max(jnp.abs(kept.codes))) == 127
    assert float(jnp.max(jnp.abs(kept.codes * kept.scale - x) / kept.scale)) <= 0.5001
    q = jnp.asarray(np.random.default_rng(1).normal(size=(2, 1, 6, 8)), jnp.float32)
    mask = jnp.ones((2, 1, 5), bool)
    exact = attend(q, kept.codes * kept.scale, kept.codes * kept.scale, mask, 0.3, 2.0)
    np.testing.assert_allclose(attend(q, kept, kept, mask, 0.3, 2.0), exact, rtol=1e-5, atol=1e-6)

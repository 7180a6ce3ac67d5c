import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet.models.draw import Warp, capture, draw, top

BELOW_1 = float(np.nextafter(np.float32(1), np.float32(0)))


def kept(probs: np.ndarray, warp: Warp) -> np.ndarray:
    """The distribution after temperature and cuts, in float64 and id by id."""
    heated = probs ** (1 / warp.temperature)
    heated = heated / heated.sum()
    order = np.argsort(-heated, kind="stable")
    likeliest = heated[order[: warp.top_k or None]].sum()
    left = np.zeros_like(heated)
    mass = 0.0
    for rank, i in enumerate(order):
        inside = (warp.top_k == 0 or rank < warp.top_k) and (warp.top_p >= 1 or mass < warp.top_p * likeliest)
        if inside and heated[i] >= warp.min_p * heated.max():
            left[i] = heated[i]
        mass += heated[i]
    return left / left.sum()


@pytest.mark.parametrize(
    "warp",
    [Warp(), Warp(0.5), Warp(2.0, top_k=5), Warp(1.0, top_p=0.7), Warp(1.3, min_p=0.2), Warp(1.0, 20, 0.8, 0.05),
     Warp(1.0, 20, 0.6)],
)
def test_tokens_are_drawn_from_the_tempered_and_cut_distribution(warp):
    """Evenly spread uniform numbers draw every id as often as its probability says, blocks of 128 and all."""
    logits = np.random.default_rng(0).normal(size=300) * 2
    probs = np.exp(logits) / np.exp(logits).sum()
    uniform = (np.arange(20_000) + 0.5) / 20_000
    drawn = draw(
        jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (20_000, 300)), jnp.asarray(uniform), warp, warp.cuts
    )
    seen = np.bincount(drawn, minlength=300) / 20_000
    np.testing.assert_allclose(seen, kept(probs, warp), atol=2e-4)


@given(st.lists(st.sampled_from([-1e30, 0.0, 3.0, 7.0]), min_size=1, max_size=270).filter(lambda z: max(z) >= 0),
       st.sampled_from([0.0, 1e-7, 0.5, BELOW_1]))
def test_an_id_without_probability_is_never_drawn(logits, uniform):
    logits += [-1e30] * (270 - len(logits))
    drawn = int(draw(jnp.asarray([logits], jnp.float32), jnp.asarray([uniform], jnp.float32), Warp(), False)[0])
    assert logits[drawn] >= 0


@pytest.mark.parametrize("vocab", [20_000, pytest.param(151_936, marks=pytest.mark.long)])
def test_an_id_without_probability_is_not_drawn_where_running_sums_round(vocab):
    """The uniform numbers lie at the ends of blocks, where a running sum that is made in parallel may rise over ids of
    no weight."""
    rng = np.random.default_rng(vocab)
    logits = np.full(vocab, -np.inf, np.float32)
    some = rng.choice(vocab, 20, replace=False)
    logits[some] = rng.normal(size=20)
    weights = np.exp(logits - logits.max()).astype(np.float64)
    ends = np.cumsum(weights)[np.sort(some)] / weights.sum()
    near = np.float32(ends)[:, None].view(np.int32) + np.arange(-40, 41, dtype=np.int32)
    uniform = np.minimum(near.ravel().view(np.float32), BELOW_1)
    for part in np.array_split(uniform, 40):
        drawn = draw(jnp.broadcast_to(jnp.asarray(logits), (len(part), vocab)), jnp.asarray(part), Warp(), False)
        assert np.isin(drawn, some).all()


def test_temperature_0_is_greedy():
    logits = jnp.asarray([[0.0, 2.0, 1.0]])
    assert draw(logits, jnp.asarray([BELOW_1]), Warp(0.0), False).tolist() == [1]


def test_capture_keeps_the_most_likely_ids_and_the_emitted_one():
    probs = np.array([[0.4, 0.3, 0.2, 0.07, 0.03]], np.float32)
    ids, top, tail = capture(jnp.log(probs), np.array([4]), 3)
    assert ids.tolist() == [[0, 1, 4]]
    np.testing.assert_allclose(top, [[0.4, 0.3, 0.03]], rtol=1e-6)
    np.testing.assert_allclose(tail, [0.27], atol=1e-6)
    assert capture(jnp.log(probs), np.array([1]), 3)[0].tolist() == [[0, 1, 2]]


@given(st.integers(1, 40), st.integers(1, 700), st.integers(0, 2**32 - 1))
def test_the_largest_values_are_those_of_top_k_equal_ones_included(count, size, seed):
    values = np.random.default_rng(seed).integers(-3, 30, (2, size)).astype(np.float32)
    for found, expected in zip(top(values, min(count, size)), jax.lax.top_k(values, min(count, size)), strict=True):
        np.testing.assert_array_equal(found, expected)

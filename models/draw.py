"""From logits to a token and the distribution it came from, inside a step of decoding.

Shapes: B rows, V vocabulary, K kept ids.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 128
"""Ids summed together when a token is drawn."""
_SMALL = 32
"""Ids whose largest is looked for first: on CPU, an argmax or top-k of a whole vocabulary costs several times more."""


class Warp(NamedTuple):
    """What a distribution goes through before a token is drawn; what is captured is the one before.

    Temperature 0 is greedy. Of the tempered distribution, `top_k` keeps the likeliest ids (0: all), `top_p` the fewest
    of these with so large a share of their mass (arXiv 1904.09751), `min_p` those of at least this share of the
    likeliest (arXiv 2407.01082), as in transformers and vLLM.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    @property
    def cuts(self) -> bool:
        """Whether any id is left out, which takes a sort of the vocabulary."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


class Captured(NamedTuple):
    """The next-token distribution in a few numbers: ids, probs [B, K] and tail [B], the mass outside."""

    ids: jax.Array
    probs: jax.Array
    tail: jax.Array


class Logs(NamedTuple):
    """The next-token distribution in natural logarithms, which do not vanish as small probabilities do: the likeliest
    ids and their logs [B, K], and that of the row's own token [B]."""

    ids: jax.Array
    logs: jax.Array
    own: jax.Array


def draw(logits_BV: jax.Array, uniform_B: jax.Array, warp: Warp, cuts: bool) -> jax.Array:
    """One token [B] a row: where the cumulative warped distribution passes a uniform number in [0, 1). The numbers of
    the warp are the same for all rows or, each as an array [B], a row's own; `cuts` says whether any row's leaves ids
    out."""
    warp = jax.tree.map(lambda x: jnp.broadcast_to(x, logits_BV.shape[:1]), warp)
    heat_B1 = jnp.maximum(warp.temperature, 1e-6)[:, None]
    weights_BV = jnp.exp((logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True)) / heat_B1)
    if cuts:
        weights_BV = jnp.where(weights_BV >= _least_weight(weights_BV, warp)[:, None], weights_BV, 0)
    drawn_B = _invert(weights_BV, uniform_B)
    return jnp.where(warp.temperature <= 0, top(logits_BV, 1)[1][:, 0], drawn_B).astype(jnp.int32)


def _least_weight(weights_BV: jax.Array, warp: Warp) -> jax.Array:
    """The smallest weight [B] that all cuts of a row keep; ids of equal weight are kept together."""
    sorted_BV = -jnp.sort(-weights_BV, axis=-1)
    size, top_p_B1 = sorted_BV.shape[1], warp.top_p[:, None]
    last_B1 = jnp.where(warp.top_k > 0, jnp.minimum(warp.top_k, size), size)[:, None] - 1
    kth_B = jnp.take_along_axis(sorted_BV, last_B1, axis=1)[:, 0]
    before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
    left_BV = jnp.where(sorted_BV >= kth_B[:, None], sorted_BV, 0)
    nucleus_BV = before_BV < top_p_B1 * jnp.sum(left_BV, axis=-1, keepdims=True)
    nucleus_BV |= top_p_B1 >= 1
    last_B = jnp.min(jnp.where(nucleus_BV, sorted_BV, jnp.inf), axis=-1)
    return jnp.maximum(jnp.maximum(kth_B, last_B), warp.min_p * sorted_BV[:, 0])


def _invert(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """Ids [B] at which the cumulative weights pass a share of their sum; never one of weight 0.

    Sums of blocks first, then inside a block: the vocabulary is read once, not summed up id by id.
    """
    blocks_BMI = _blocks(weights_BV, _BLOCK, 0.0)
    sums_BM = jnp.sum(blocks_BMI, axis=-1)
    ends_BM = jnp.cumsum(sums_BM, axis=-1)
    sought_B1 = uniform_B[:, None] * ends_BM[:, -1:]
    block_B1 = _first(ends_BM > sought_B1, sums_BM > 0)
    starts_BM = jnp.pad(ends_BM, ((0, 0), (1, 0)))[:, :-1]
    within_BI = jnp.take_along_axis(blocks_BMI, block_B1[..., None], axis=1)[:, 0]
    rest_B1 = sought_B1 - jnp.take_along_axis(starts_BM, block_B1, axis=1)
    place_B1 = _first(jnp.cumsum(within_BI, axis=-1) > rest_B1, within_BI > 0)
    return (block_B1 * _BLOCK + place_B1)[:, 0]


def _first(passed_BN: jax.Array, some_BN: jax.Array) -> jax.Array:
    """The first place [B, 1] of `some` that has been passed, or the last of them: sums in another order fall short, and
    JAX's running sums, which are made in parallel, may rise by a rounding where nothing is added."""
    places_N = jnp.arange(some_BN.shape[1])
    first_B1 = jnp.min(jnp.where(passed_BN & some_BN, places_N, len(places_N)), axis=-1, keepdims=True)
    return jnp.minimum(first_B1, jnp.max(jnp.where(some_BN, places_N, 0), axis=-1, keepdims=True))


def top(values_BV: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The largest values of each row and their ids, [B, count] both, as `jax.lax.top_k` gives them, equal ones
    included. They lie in the blocks with the largest maxima, of which at most `count` have to be looked at."""
    if values_BV.shape[1] <= 2 * count * _SMALL:
        return jax.lax.top_k(values_BV, count)
    blocks_BMI = _blocks(values_BV, _SMALL, -jnp.inf)
    block_BK = jnp.sort(jax.lax.top_k(jnp.max(blocks_BMI, axis=-1), count)[1], axis=-1)
    within_BKI = jnp.take_along_axis(blocks_BMI, block_BK[..., None], axis=1)
    found_BK, place_BK = jax.lax.top_k(within_BKI.reshape(len(values_BV), -1), count)
    return found_BK, jnp.take_along_axis(block_BK, place_BK // _SMALL, axis=1) * _SMALL + place_BK % _SMALL


def _blocks(x_BV: jax.Array, size: int, fill: float) -> jax.Array:
    """[B, blocks, size], the last filled up."""
    padded = jnp.pad(x_BV, ((0, 0), (0, -x_BV.shape[1] % size)), constant_values=fill)
    return padded.reshape(len(x_BV), -1, size)


def capture(logits_BV: jax.Array, token_B: jax.Array, keep: int) -> Captured:
    """The `keep` most likely ids with their probabilities and the mass outside; `token_B` is always kept."""
    top_BK, ids_BK = top(logits_BV, keep)
    own_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    replaced_BK = ~jnp.any(ids_BK == token_B[:, None], axis=1)[:, None] & (jnp.arange(keep) == keep - 1)
    peak_B1 = jnp.max(logits_BV, axis=-1, keepdims=True)
    whole_B1 = jnp.sum(jnp.exp(logits_BV - peak_B1), axis=-1, keepdims=True)
    probs_BK = jnp.exp(jnp.where(replaced_BK, own_B[:, None], top_BK) - peak_B1) / whole_B1
    ids_BK = jnp.where(replaced_BK, token_B[:, None], ids_BK)
    return Captured(ids_BK, probs_BK, jnp.maximum(1.0 - probs_BK.sum(-1), 0.0))


def logs(logits_BV: jax.Array, token_B: jax.Array, keep: int) -> Logs:
    """The `keep` most likely ids with the logs of their probabilities, and that of `token_B`."""
    top_BK, ids_BK = top(logits_BV, keep)
    own_B1 = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)
    whole_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    own_B1 = jnp.max(jnp.where(ids_BK == token_B[:, None], top_BK, own_B1), axis=1, keepdims=True)  # to the last bit
    return Logs(ids_BK, top_BK - whole_B1, (own_B1 - whole_B1)[:, 0])

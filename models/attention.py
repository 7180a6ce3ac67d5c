"""Rotary positions and masked grouped-query attention.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads (H = G·R), E head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_BLOCKS, _BLOCK = 8, 80
"""Packed rows attend in at most so many blocks of queries, of at least so many each."""


class Int8(NamedTuple):
    """Keys or values [B, G, S, E] in a byte a number: `codes` times the `scale` [B, G, S, 1] of their own head."""

    codes: jax.Array
    scale: jax.Array


def quantized(x_BGSE: jax.Array) -> Int8:
    """Rounded to the nearest of 255 numbers between the extremes of each head."""
    scale = jnp.maximum(jnp.max(jnp.abs(x_BGSE), axis=-1, keepdims=True).astype(jnp.float32), 1e-30) / 127
    return Int8(jnp.round(x_BGSE / scale).astype(jnp.int8), scale)


def rotate(x_BTHE: jax.Array, positions_BT: jax.Array, frequencies_E: jax.Array) -> jax.Array:
    """Rotary position embedding (arXiv 2104.09864), halves convention as in Llama; `frequencies` has E/2 entries."""
    angles_BTE = positions_BT[..., None] * frequencies_E
    cos, sin = jnp.cos(angles_BTE)[:, :, None], jnp.sin(angles_BTE)[:, :, None]
    left, right = jnp.split(x_BTHE, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_BTHE.dtype)


def attend(
    q_BTHE: jax.Array, k_BGSE: jax.Array | Int8, v_BGSE: jax.Array | Int8, mask_BTS: jax.Array, scale: float,
    softcap: float = 0.0,
) -> jax.Array:
    """softmax(scale·q·k)·v where `mask_BTS` is True; a query whose mask is all False attends evenly and is never read.

    With a `softcap`, scores become cap·tanh(score/cap) before the mask (Gemma 2).
    """
    b, t, h, e = q_BTHE.shape
    (k_BGSE, k_scale), (v_BGSE, v_scale) = _codes(k_BGSE, q_BTHE.dtype), _codes(v_BGSE, q_BTHE.dtype)
    g = k_BGSE.shape[1]
    q_BGRTE = q_BTHE.reshape(b, t, g, h // g, e).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("bgrte,bgse->bgrts", q_BGRTE, k_BGSE, preferred_element_type=jnp.float32) * (scale * k_scale)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    scores = jnp.where(mask_BTS[:, None, None], scores, -1e30)
    weights = (jax.nn.softmax(scores, axis=-1) * v_scale).astype(v_BGSE.dtype)
    mixed_BGRTE = jnp.einsum("bgrts,bgse->bgrte", weights, v_BGSE)
    return mixed_BGRTE.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


def _codes(kept: jax.Array | Int8, dtype) -> tuple[jax.Array, jax.Array | float]:
    """The numbers, and what products with them are multiplied by [B, G, 1, 1, S]."""
    if not isinstance(kept, Int8):
        return kept, 1.0
    return kept.codes.astype(dtype), kept.scale.swapaxes(2, 3)[:, :, None]


def attend_packed(
    q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array, window: jax.Array | None,
    scale: float, softcap: float = 0.0,
) -> jax.Array:
    """Causal attention inside the segments of packed rows, in blocks of queries that skip the keys after them.

    With a `window`, a query attends to so many tokens, itself included. With n blocks the work is (n+1)/2n of the
    square's, in forward and backward passes alike, and the results are equal.
    """
    t = q_BTHE.shape[1]
    size = -(-t // min(_BLOCKS, max(1, t // _BLOCK)))
    k_BGSE, v_BGSE = k_BTGE.swapaxes(1, 2), v_BTGE.swapaxes(1, 2)
    mixed = []
    for start in range(0, t, size):
        end = min(start + size, t)
        columns_1S = jnp.arange(end)[None]
        causal_1TS = causal_mask(columns_1S[:, start:], columns_1S, window)
        same_BTS = segments_BT[:, start:end, None] == segments_BT[:, None, :end]
        mixed.append(attend(q_BTHE[:, start:end], k_BGSE[:, :, :end], v_BGSE[:, :, :end], causal_1TS & same_BTS,
                            scale, softcap))
    return jnp.concatenate(mixed, axis=1)


def causal_mask(queries_BT: jax.Array, keys_BS: jax.Array, window: jax.Array | None) -> jax.Array:
    """Which keys each query attends to [B, T, S], by their positions: its own and those before it, of these the last
    `window`; a key whose position is below 0 is none."""
    distance_BTS = queries_BT[:, :, None] - keys_BS[:, None, :]
    seen_BTS = (distance_BTS >= 0) & (keys_BS >= 0)[:, None, :]
    return seen_BTS if window is None else seen_BTS & (distance_BTS < window)

"""Rotary positions and masked grouped-query attention.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads (H = G·R), E head width.
"""

import jax
import jax.numpy as jnp

_BLOCKS, _BLOCK = 8, 40
"""Packed rows attend in at most so many blocks of queries, of at least so many each."""


def rotate(x_BTHE: jax.Array, positions_BT: jax.Array, base: float = 10_000.0) -> jax.Array:
    """Rotary position embedding (arXiv 2104.09864), halves convention as in Llama."""
    half = x_BTHE.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half) / half)
    angles_BTE = positions_BT[..., None] * frequencies
    cos, sin = jnp.cos(angles_BTE)[:, :, None], jnp.sin(angles_BTE)[:, :, None]
    left, right = jnp.split(x_BTHE, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_BTHE.dtype)


def attend(q_BTHE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """softmax(q·k / √E)·v where `mask_BTS` is True; a query with nothing to see attends evenly and is never read."""
    b, t, h, e = q_BTHE.shape
    g = k_BGSE.shape[1]
    q_BGRTE = q_BTHE.reshape(b, t, g, h // g, e).transpose(0, 2, 3, 1, 4)
    scores = jnp.einsum("bgrte,bgse->bgrts", q_BGRTE, k_BGSE, preferred_element_type=jnp.float32) * e**-0.5
    scores = jnp.where(mask_BTS[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BGSE.dtype)
    mixed_BGRTE = jnp.einsum("bgrts,bgse->bgrte", weights, v_BGSE)
    return mixed_BGRTE.transpose(0, 3, 1, 2, 4).reshape(b, t, h, e)


def attend_packed(q_BTHE: jax.Array, k_BTGE: jax.Array, v_BTGE: jax.Array, segments_BT: jax.Array) -> jax.Array:
    """Causal attention inside the segments of packed rows, in blocks of queries that skip the keys after them.

    With n blocks the work is (n+1)/2n of the square's, in forward and backward passes alike, and the results are equal.
    """
    t = q_BTHE.shape[1]
    size = -(-t // min(_BLOCKS, max(1, t // _BLOCK)))
    k_BGSE, v_BGSE = k_BTGE.swapaxes(1, 2), v_BTGE.swapaxes(1, 2)
    mixed = []
    for start in range(0, t, size):
        end = min(start + size, t)
        causal_TS = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :]
        same_BTS = segments_BT[:, start:end, None] == segments_BT[:, None, :end]
        mixed.append(attend(q_BTHE[:, start:end], k_BGSE[:, :, :end], v_BGSE[:, :, :end], causal_TS & same_BTS))
    return jnp.concatenate(mixed, axis=1)

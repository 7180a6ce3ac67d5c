"""Rotary positions and masked grouped-query attention.

Shapes: B batch, T queries, S keys, H query heads, G key/value heads (H = G·R), E head width.
"""

import jax
import jax.numpy as jnp


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

"""What a layer does to tokens, but for what attends: norms, convolutions, projections, the MLP.

Shapes: B batch, T tokens, D width, C tokens that a convolution mixes, H query heads, G key/value heads, E head width,
F MLP width. `weights` are a layer's own, by name.
"""

import jax
import jax.numpy as jnp

from ratchet.models.attention import rotate
from ratchet.models.family import ACTIVATIONS, Family
from ratchet.models.products import project, project_all


def norm(x_BTD: jax.Array, scale_D: jax.Array, family: Family) -> jax.Array:
    """RMSNorm (arXiv 1910.07467)."""
    variance = jnp.mean(jnp.square(x_BTD.astype(jnp.float32)), axis=-1, keepdims=True)
    normed_BTD = x_BTD * jax.lax.rsqrt(variance + family.norm_epsilon)
    if family.norm_offset:  # Gemma's, which are rounded once in the end
        return (normed_BTD * (1 + scale_D.astype(jnp.float32))).astype(x_BTD.dtype)
    return normed_BTD.astype(x_BTD.dtype) * scale_D


def convolve(
    last_BCD: jax.Array, x_BTD: jax.Array, positions_BT: jax.Array, weight_CD: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Depthwise causal convolution of T tokens preceded by C-1 earlier ones, and all its inputs, earlier ones first.

    It stops at the start of a sequence. Without a weight the tokens stay as they are.
    """
    if weight_CD is None:
        return x_BTD, x_BTD
    history_BTD = jnp.concatenate([last_BCD, x_BTD], axis=1)
    t, c = positions_BT.shape[1], weight_CD.shape[0]
    mixed = 0.0
    for back in range(c):
        before_BTD = jax.lax.dynamic_slice_in_dim(history_BTD, c - 1 - back, t, axis=1)
        mixed += weight_CD[back] * jnp.where(positions_BT[..., None] >= back, before_BTD, 0)
    return mixed, history_BTD


def queries_keys_values(
    y_BTD: jax.Array, positions_BT: jax.Array, frequencies_E: jax.Array, weights: dict[str, jax.Array], family: Family
):
    """Queries and keys, normed where the family does and rotated, and values: [B, T, H or G, E]."""
    q, k, v = project_all(y_BTD, weights, ("query", "key", "value"))
    if family.query_key_norm:
        q, k = norm(q, weights["query_norm"], family), norm(k, weights["key_norm"], family)
    return rotate(q, positions_BT, frequencies_E), rotate(k, positions_BT, frequencies_E), v


def finish(
    x_BTD: jax.Array, mixed_BTHE: jax.Array, last_BCD: jax.Array, positions_BT: jax.Array,
    weights: dict[str, jax.Array], family: Family,
) -> tuple[jax.Array, jax.Array]:
    """Adds what attention found, then the MLP; also returns the MLP's inputs, C-1 earlier ones first."""
    found_BTD = project(mixed_BTHE.reshape(*x_BTD.shape[:2], -1), weights, "output")
    if family.post_norms:
        found_BTD = norm(found_BTD, weights["attention_post_norm"], family)
    x_BTD = x_BTD + found_BTD
    normed_BTD = norm(x_BTD, weights["mlp_norm"], family)
    y_BTD, history_BTD = convolve(last_BCD, normed_BTD, positions_BT, weights.get("mlp_conv"))
    activate = ACTIVATIONS[family.activation]
    if family.gated:
        gate_BTF, up_BTF = project_all(y_BTD, weights, ("gate", "up"))
        up_BTF = activate(gate_BTF) * up_BTF
    else:
        up_BTF = activate(project(y_BTD, weights, "up"))
    down_BTD = project(up_BTF, weights, "down")
    if family.post_norms:
        down_BTD = norm(down_BTD, weights["mlp_post_norm"], family)
    return x_BTD + down_BTD, history_BTD

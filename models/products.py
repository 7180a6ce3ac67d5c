"""Products of a layer's input with its matrices, several at once where these lie side by side, and rows of embeddings.

Shapes: B batch, T tokens, D width, V vocabulary, I what a matrix takes, O what it gives.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from ratchet.models.programs import platform

_TOGETHER = ((("query", "key", "value"), -2), (("gate", "up"), -1))
"""Matrices that multiply the same input, and the axis along which they are joined: heads, or the MLP's width."""
FIRST = {"_".join(names) + of: names[0] + of for names, _ in _TOGETHER for of in ("", "_bias")}
"""By the name of what was joined, the first of its parts."""


def joined(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The weights of a layer, or stacks of them, with those that multiply the same input side by side."""
    for names, axis in _TOGETHER:
        biased = [f"{name}_bias" in weights for name in names]
        if names[0] not in weights or any(biased) != all(biased):
            continue
        for of in ("", "_bias")[: 1 + all(biased)]:
            parts = [weights[name + of] for name in names]
            rest = {name: weight for name, weight in weights.items() if name.removesuffix(of) not in names}
            weights = rest | {"_".join(names) + of: jnp.concatenate(parts, axis)}
    return weights


def project_all(x_BTD: jax.Array, weights: dict[str, jax.Array], names: tuple[str, ...]) -> list[jax.Array]:
    """`project` by each of several matrices."""
    if "_".join(names) not in weights:
        return [project(x_BTD, weights, name) for name in names]
    y = project(x_BTD, weights, "_".join(names))
    if y.ndim == 3:
        return jnp.split(y, len(names), axis=-1)
    heads = len(weights["output"])
    return jnp.split(y, (heads, (heads + y.shape[2]) // 2), axis=2)


def project(x_BTD: jax.Array, weights: dict[str, jax.Array], name: str) -> jax.Array:
    """x @ weight, with its bias and its adapter if there is one; [B, T, D] by [D, H, E] to [B, T, H, E]."""
    weight = weights[name]
    y_BTO = matmul(x_BTD, weight.reshape(x_BTD.shape[-1], -1))
    if (into := weights.get(f"{name}_into")) is not None:
        y_BTO = y_BTO + matmul(matmul(x_BTD, into), weights[f"{name}_out"])
    y = y_BTO.reshape(*x_BTD.shape[:2], *weight.shape[1:]) if weight.ndim == 3 and name != "output" else y_BTO
    bias = weights.get(f"{name}_bias")
    return y if bias is None else y + bias


def matmul(x_BTI: jax.Array, weight_IO: jax.Array, dtype: DTypeLike | None = None) -> jax.Array:
    """x @ weight over flat tokens: XLA's CPU backend takes 1.6 times as long for the gradient of the 3-D form. The sums
    are given in `dtype`; None is that of x.

    For a single token XLA's GPU backend sums up products one by one, which takes twice as long as for eight.
    """
    x_NI = x_BTI.reshape(-1, x_BTI.shape[-1])
    padded = len(x_NI) == 1 and platform() == "gpu"
    y_NO = jnp.matmul(jnp.pad(x_NI, ((0, 7), (0, 0))) if padded else x_NI, weight_IO, preferred_element_type=dtype)
    return y_NO[: len(x_NI)].reshape(*x_BTI.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def embed(
    embedding_VD: jax.Array, tokens_BT: jax.Array, dtype: DTypeLike, rows: PartitionSpec | None = None
) -> jax.Array:
    """The tokens' rows in another type. Their gradients are added up in that of the embedding: a sum in bfloat16 stops
    to grow after 256 equal ones, and a token may stand in a batch many times more.

    `rows` says how a batch's rows lie over a mesh, as P(("data", "fsdp")) does; its last axis also splits the
    embedding's width. In the backward pass gradients change chips before they are cast to the wider type; then each
    chip holds its part of the width for all rows.
    """
    return embedding_VD.astype(dtype)[tokens_BT]


def _embed_forward(embedding_VD: jax.Array, tokens_BT: jax.Array, dtype: DTypeLike, rows: PartitionSpec | None):
    return embed(embedding_VD, tokens_BT, dtype, rows), (embedding_VD, tokens_BT)


def _embed_backward(
    dtype: DTypeLike, rows: PartitionSpec | None, kept: tuple[jax.Array, jax.Array], grad_BTD: jax.Array
):
    embedding_VD, tokens_BT = kept
    if rows is not None:
        *outer, inner = (rows[0],) if isinstance(rows[0], str) else rows[0]
        if grad_BTD.shape[-1] % jax.sharding.get_abstract_mesh().shape[inner] == 0:
            grad_BTD = jax.lax.with_sharding_constraint(grad_BTD, PartitionSpec(tuple(outer), None, inner))
    add = jax.linear_transpose(lambda rows_VD: rows_VD[tokens_BT], embedding_VD)
    return *add(grad_BTD.astype(embedding_VD.dtype)), None


embed.defvjp(_embed_forward, _embed_backward)

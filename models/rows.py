"""Rows of an embedding and of a head for tokens that a chat template writes, but that the model was not trained with.

A model's matrices may have more rows than its tokenizer.json has tokens. Other files of a folder can name tokens for
them, in which no training shows: they are zeros, or what a generator drew. Shapes: V rows, D width.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ratchet.models.chat import ChatTokenizer

_IDS_ALONG = {"embedding": 0, "head": 1}
"""The axis of a matrix along which its ids lie."""
FAR = 2.0
"""How many times as long as all of the rows in use, or as short, a row is that no training shows in."""


def untrained(params: nnx.State, tokenizer: ChatTokenizer) -> tuple[int, ...]:
    """The ids of a template's tokens that tokenizer.json has not, and whose row of the embedding or the head is longer
    or shorter than those of all ids that it has, by a factor of FAR."""
    found: set[int] = set()
    for name, along in _IDS_ALONG.items():
        if tokenizer.late and name in params:
            norm_V = _norms(params[name][...], along)
            usual = norm_V[_used(tokenizer)]
            found |= {i for i in tokenizer.late if not usual.min() / FAR < norm_V[i] < usual.max() * FAR}
    return tuple(sorted(found))


def described(ids: Sequence[int], tokenizer: ChatTokenizer) -> str:
    """A clause, for people, that says what `untrained` found."""
    names = ", ".join(map(tokenizer.piece, ids))
    return f"no training shows in the rows of {names}, which its chat template writes and its tokenizer.json has not"


def with_means(params: nnx.State, ids: Sequence[int], tokenizer: ChatTokenizer) -> nnx.State:
    """The weights in which the rows of `ids` are the mean of those that tokenizer.json has tokens for."""
    if not ids:
        return params
    at, used = np.array(ids), np.array(_used(tokenizer))

    def of(path, leaf: jax.Array) -> jax.Array:
        if (along := _IDS_ALONG.get(path[0].key)) is None:
            return leaf
        return jax.jit(_with_means, static_argnums=3, out_shardings=leaf.sharding)(leaf, at, used, along)

    return jax.tree_util.tree_map_with_path(of, params)


def _used(tokenizer: ChatTokenizer) -> list[int]:
    return sorted(tokenizer.ids - tokenizer.late)


def _with_means(x: jax.Array, ids: jax.Array, used: jax.Array, along: int) -> jax.Array:
    x_VD = jnp.moveaxis(x, along, 0)
    mean_D = jnp.mean(x_VD[used].astype(jnp.float32), axis=0)
    return jnp.moveaxis(x_VD.at[ids].set(mean_D.astype(x.dtype)), 0, along)


def _norms(x: jax.Array, along: int) -> np.ndarray:
    """The length of each row [V], on every host."""
    whole = NamedSharding(x.sharding.mesh, PartitionSpec()) if isinstance(x.sharding, NamedSharding) else None
    norms = jax.jit(partial(jnp.linalg.norm, axis=1 - along), out_shardings=whole)
    return jax.device_get(norms(x))

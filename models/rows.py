"""Rows of an embedding and of a head for tokens that a chat template writes, but that the model was not trained with.

A model's matrices may have more rows than its tokenizer.json has tokens. Other files of a folder can name tokens for
them, whose rows show no training: they are zeros, or what a generator drew. Shapes: V rows, D width.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ratchet.models.chat import ChatTokenizer

IDS_ALONG = {"embedding": 0, "head": 1}
"""The axis of a matrix along which its ids lie."""
FAR = 4.0
"""How many times as long as nearly all rows in use, or as short, a row is that shows no training."""
_NEARLY_ALL = (1, 99)
"""Percentiles: a few rows in use may be zeros too, such as that of a token that only pads."""

Rows = Mapping[str, Sequence[int]]
"""Ids by the matrix that their rows are of, such as {"embedding": (640,), "head": ()}."""


def untrained(params: nnx.State, tokenizer: ChatTokenizer) -> Rows:
    """Of a template's tokens that tokenizer.json has not, the ids whose row is longer or shorter by a factor of FAR
    than those of nearly all ids that it has."""
    used = sorted(tokenizer.ids - tokenizer.late)
    found: dict[str, Sequence[int]] = {}
    for name in IDS_ALONG if tokenizer.late else ():
        if name in params:
            norm_V = _norms(params[name][...], IDS_ALONG[name])
            short, long = np.percentile(norm_V[used], _NEARLY_ALL)
            found[name] = sorted(i for i in tokenizer.late if not short / FAR < norm_V[i] < long * FAR)
    return {name: ids for name, ids in found.items() if ids}


def described(found: Rows, tokenizer: ChatTokenizer) -> str:
    """A clause, for people, that says what `untrained` found."""
    names = ", ".join(map(tokenizer.piece, sorted({i for ids in found.values() for i in ids})))
    return f"no training shows in the rows of {names}, which its chat template writes and its tokenizer.json has not"


def with_means(params: nnx.State, found: Rows, tokenizer: ChatTokenizer) -> nnx.State:
    """The weights in which the rows that `untrained` found are the mean of those that tokenizer.json has tokens for."""

    def of(path, leaf: jax.Array) -> jax.Array:
        if (name := path[0].key) not in found:
            return leaf
        along = IDS_ALONG[name]
        is_used_V = np.isin(np.arange(leaf.shape[along]), sorted(tokenizer.ids - tokenizer.late))
        put = jax.jit(_with_means, static_argnums=3, out_shardings=leaf.sharding)
        return put(leaf, np.array(found[name]), is_used_V, along)

    return jax.tree_util.tree_map_with_path(of, params) if found else params


def _with_means(x: jax.Array, ids: jax.Array, is_used_V: jax.Array, along: int) -> jax.Array:
    x_VD = jnp.moveaxis(x, along, 0)
    mean_D = jnp.sum(jnp.where(is_used_V[:, None], x_VD, 0), axis=0, dtype=jnp.float32) / jnp.sum(is_used_V)
    return jnp.moveaxis(x_VD.at[ids].set(mean_D.astype(x.dtype)), 0, along)


def _norms(x: jax.Array, along: int) -> np.ndarray:
    """The length of each row [V], on every host."""
    whole = NamedSharding(x.sharding.mesh, PartitionSpec()) if isinstance(x.sharding, NamedSharding) else None
    norms = jax.jit(partial(jnp.linalg.norm, axis=1 - along), out_shardings=whole)
    return jax.device_get(norms(x))

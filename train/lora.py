"""Low-rank adapters (LoRA, arXiv 2106.09685): W + A·B in place of W, with A and B alone trained.

An embedding and a head get none, but for rows of tokens that a model's tokenizer.json has not: those are trained whole,
at any rank. For these alone the gradients of the whole embedding and head are made.

Shapes: L layers, I inputs and O outputs of a matrix, R rank, N new tokens, D width.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.models.decoder import INPUT_AXES
from ratchet.models.programs import compiler_options, platform
from ratchet.models.rows import IDS_ALONG

ADAPTED = ("query", "key", "value", "output", "gate", "up", "down")
"""The matrices of a layer that get adapters, as far as the family has them."""

Adapters = dict[str, jax.Array]
"""`NAME_into` [L, I, R] and `NAME_out` [L, R, O] by the matrix's name, and `embedding_rows` and `head_rows` [N, D]."""


def create(params: nnx.State, rank: int, seed: int, new: Sequence[int] = ()) -> Adapters:
    """Adapters that change nothing yet: A is random, of the scale of a fresh matrix, B is 0, and so is what is added to
    the rows of tokens whose ids are `new`."""
    made, key = {}, jax.random.key(seed)
    for number, name in enumerate(ADAPTED):
        if name not in params["layers"]:
            continue
        layers, inputs, outputs = _sizes(name, params["layers"][name][...])
        into = jax.random.normal(jax.random.fold_in(key, number), (layers, inputs, rank)) * inputs**-0.5
        made |= {f"{name}_into": into, f"{name}_out": jnp.zeros((layers, rank, outputs))}
    with_rows = [name for name in IDS_ALONG if new and name in params]
    return made | {f"{name}_rows": jnp.zeros((len(new), params["embedding"].shape[1])) for name in with_rows}


def rows_added(params: nnx.State, adapters: Adapters, new: Sequence[int] = ()) -> tuple[nnx.State, Adapters]:
    """The weights with what adapters add to rows of `new` tokens, and the adapters of layers, as the decoder takes
    them."""

    def add(path, leaf):
        rows_ND = adapters.get(f"{path[0].key}_rows")
        if rows_ND is None:
            return leaf
        ids_N, change_ND = np.array(new), rows_ND.astype(leaf.dtype)
        return leaf.at[ids_N].add(change_ND) if IDS_ALONG[path[0].key] == 0 else leaf.at[:, ids_N].add(change_ND.T)

    of_layers = {name: x for name, x in adapters.items() if not name.endswith("_rows")}
    return jax.tree_util.tree_map_with_path(add, params), of_layers


def merged(params: nnx.State, adapters: Adapters, new: Sequence[int] = (), deterministic: bool = False) -> nnx.State:
    """The weights with what the adapters add to them. A `deterministic` sum is the same on a GPU each time."""
    options = compiler_options(deterministic, platform())
    return jax.jit(_merge, static_argnames="new", compiler_options=options)(params, adapters, new=tuple(new))


def _merge(params: nnx.State, adapters: Adapters, new: Sequence[int]) -> nnx.State:
    # Adapters are not closed over: the compiler would multiply them itself, for half a minute.
    def add(path, leaf):
        name = next((str(key.key) for key in reversed(path) if getattr(key, "key", None) in ADAPTED), "")
        if f"{name}_into" not in adapters:
            return leaf
        change = jnp.einsum("lir,lro->lio", adapters[f"{name}_into"], adapters[f"{name}_out"])
        return leaf + change.reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(add, rows_added(params, adapters, new)[0])


def _sizes(name: str, weight: jax.Array) -> tuple[int, int, int]:
    """(L, I, O) of a stack of matrices."""
    split = 1 + INPUT_AXES.get(name, 1)
    return weight.shape[0], math.prod(weight.shape[1:split]), math.prod(weight.shape[split:])

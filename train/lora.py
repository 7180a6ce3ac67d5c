"""Low-rank adapters (LoRA, arXiv 2106.09685): W + A·B in place of W, with A and B alone trained.

Shapes: L layers, I inputs and O outputs of a matrix, R rank.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from ratchet.models.decoder import INPUT_AXES
from ratchet.models.programs import compiler_options

ADAPTED = ("query", "key", "value", "output", "gate", "up", "down")
"""The matrices of a layer that get adapters, as far as the family has them."""

Adapters = dict[str, jax.Array]
"""`NAME_into` [L, I, R] and `NAME_out` [L, R, O] by the matrix's name."""


def create(params: nnx.State, rank: int, seed: int) -> Adapters:
    """Adapters that change nothing yet: A is random, of the scale of a fresh matrix, and B is 0."""
    made, key = {}, jax.random.key(seed)
    for number, name in enumerate(ADAPTED):
        if name not in params["layers"]:
            continue
        layers, inputs, outputs = _sizes(name, params["layers"][name][...])
        into = jax.random.normal(jax.random.fold_in(key, number), (layers, inputs, rank)) * inputs**-0.5
        made |= {f"{name}_into": into, f"{name}_out": jnp.zeros((layers, rank, outputs))}
    return made


def merged(params: nnx.State, adapters: Adapters, deterministic: bool = False) -> nnx.State:
    """The weights with what the adapters add to them. A `deterministic` sum is the same on a GPU each time."""
    return jax.jit(_merge, compiler_options=compiler_options(deterministic))(params, adapters)


def _merge(params: nnx.State, adapters: Adapters) -> nnx.State:
    # Adapters are not closed over: the compiler would multiply them itself, for half a minute.
    def add(path, leaf):
        name = next((str(key.key) for key in reversed(path) if getattr(key, "key", None) in ADAPTED), "")
        if f"{name}_into" not in adapters:
            return leaf
        change = jnp.einsum("lir,lro->lio", adapters[f"{name}_into"], adapters[f"{name}_out"])
        return leaf + change.reshape(leaf.shape).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(add, params)


def _sizes(name: str, weight: jax.Array) -> tuple[int, int, int]:
    """(L, I, O) of a stack of matrices."""
    split = 1 + INPUT_AXES.get(name, 1)
    return weight.shape[0], math.prod(weight.shape[1:split]), math.prod(weight.shape[split:])

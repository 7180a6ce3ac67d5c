"""Texts that go on after others, read by one layer after the other: a question after its context, a context after what
it begins with.

Shapes: A rows of the reading before, B rows, T tokens, S columns so far, D width, C tokens that a convolution mixes,
G key/value heads, E head width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ratchet.models.decoder import Decoder, Layers
from ratchet.models.kernels import Kernel, attend_cache


class Reading(NamedTuple):
    """Texts [B, T], and which of their tokens are real. Row b goes on after row `after_B[b]` of the reading before;
    what is read first goes on after nothing, row 0.

    Tokens of a row follow each other without gaps. The last reading alone may be padded on the right. Where a model
    has convolutions, the first alone may be padded on the left: they would see padding behind a text.
    """

    tokens_BT: jax.Array
    real_BT: jax.Array
    after_B: jax.Array


def follow(model: Decoder, layers: Layers | None, readings: Sequence[Reading], kernel: Kernel) -> jax.Array:
    """Hidden states [B, T, D] of the last of some readings, each of whose rows goes on after a row of the one before.

    A layer reads all of them before the next one does, so that keys and values of one layer alone are kept. Without
    `layers`, a loop goes over the model's stacks, and one layer is compiled instead of all.
    """
    steps, before_AS = [], jnp.full((1, 0), -1)
    for reading in readings:
        after_BS = before_AS[reading.after_B]
        length_B1 = jnp.max(after_BS, axis=1, keepdims=True, initial=-1) + 1
        positions_BT = jnp.maximum(length_B1 + jnp.cumsum(reading.real_BT, axis=1) - 1, 0)
        before_AS = jnp.concatenate([after_BS, jnp.where(reading.real_BT, positions_BT, -1)], axis=1)
        attend = _attend(model, kernel, reading.after_B, positions_BT, before_AS)
        steps.append(model.layer_step(positions_BT, attend))

    def one(hidden: list[jax.Array], xs: tuple) -> tuple[list[jax.Array], None]:
        (weights, sliding), found = xs, []
        keys, values, last_AC2D = _nothing(model)
        for x_BTD, step, reading in zip(hidden, steps, readings, strict=True):
            given = (weights, sliding, (keys, values), last_AC2D[reading.after_B])
            x_BTD, (keys, values, last_AC2D) = step(x_BTD, given)
            found.append(x_BTD)
        return found, None

    hidden, sliding = [model.embedded(reading.tokens_BT) for reading in readings], model.sliding
    if layers is None:
        hidden, _ = jax.lax.scan(one, hidden, (model.stacked(), jnp.array(sliding) if any(sliding) else None))
    else:
        for own in zip(layers, sliding, strict=True):
            hidden, _ = one(hidden, own)
    return model.normed(hidden[-1])


def _attend(
    model: Decoder, kernel: Kernel, after_B: jax.Array, positions_BT: jax.Array, positions_BS: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """What attends to the keys and values of the rows before and, in the columns behind them, to the new ones."""
    column = positions_BS.shape[1] - positions_BT.shape[1]

    def attend(kept: Any, q: jax.Array, k: jax.Array, v: jax.Array, sliding: Any, window: Any):
        both = zip(kept, (k, v), strict=True)
        keys, values = (jnp.concatenate([old_AGSE[after_B], new.swapaxes(1, 2)], axis=2) for old_AGSE, new in both)
        scores = model.config.scores
        mixed = attend_cache(q, keys, values, positions_BT, positions_BS, sliding, window, scores, kernel, column)
        return mixed, keys, values

    return attend


def _nothing(model: Decoder) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A layer's keys, values and last inputs of one row without a column."""
    c, dtype = model.config, model.embedding[...].dtype
    empty_AGSE = jnp.zeros((1, c.kv_heads, 0, c.head_size), dtype)
    return empty_AGSE, empty_AGSE, jnp.zeros((1, c.conv - 1, 2 * c.width), dtype)

"""Prompts that begin alike, such as with the same worked examples: what they share is read once.

Shapes: A prompts, E beginnings of L tokens, R columns of what follows, D width, S = L + R columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ratchet.models.decoder import Cache, Decoder, Layers
from ratchet.models.inference import left_pad, round_up
from ratchet.models.kernels import Kernel

LEAST = 128
"""Tokens of a beginning that is read apart. Each length of one compiles."""
WORTH, SAVED = 0.75, 1024
"""Beginnings are read apart only where the columns that are read then are less than this share of those that are read
otherwise, and fewer by at least so many: each new shape has to be compiled."""
Tokens = Sequence[int]


class Prompts(NamedTuple):
    """Prompts in two parts: beginnings, all of one length, which may be 0; and by prompt which of them it has, and what
    follows, padded on the left."""

    begun_EL: np.ndarray
    begun_A: np.ndarray
    rest_AR: np.ndarray
    real_AR: np.ndarray


def split(parts: Sequence[Sequence[Tokens | None]], rows: int, width: int, step: int, apart: bool) -> list[Prompts]:
    """The prompts of each part of a mesh in so many rows of `width` columns; None leaves a row empty.

    Where they may be read `apart` and it is worth it, beginnings are, whose length is a multiple of twice `step`.
    All parts get the same shapes.
    """
    given = [[prompt for prompt in own if prompt is not None] for own in parts]
    shortest = min((len(prompt) for own in given for prompt in own), default=0) if apart else 0
    least, length, count = min(WORTH * rows * width, rows * width - SAVED), 0, 1
    for tried in range(round_up(LEAST, 2 * step), shortest, 2 * step):
        distinct = max(len({tuple(prompt[:tried]) for prompt in own}) for own in given)
        beginnings = 1 << max(distinct - 1, 0).bit_length()  # in few numbers, since each compiles
        columns = beginnings * tried + rows * (width - tried)
        if columns < least:
            least, length, count = columns, tried, beginnings
    return [_split(own, rows, width, length, count) for own in parts]


def _split(prompts: Sequence[Tokens | None], rows: int, width: int, length: int, count: int) -> Prompts:
    begun_EL, begun_A, places = np.zeros((count, length), np.int32), np.zeros(rows, np.int32), {}
    for row, prompt in enumerate(prompts):
        if prompt is not None:
            begun_A[row] = places.setdefault(tuple(prompt[:length]), len(places))
    for beginning, place in places.items():
        begun_EL[place] = beginning
    return Prompts(begun_EL, begun_A, *left_pad([(p or ())[length:] for p in prompts], width - length, rows))


def lengths(prompts: Sequence[Tokens], step: int, apart: bool) -> list[int]:
    """The lengths by which to sort prompts into batches: roughly the same where they may be read `apart`, so that those
    that begin alike come together."""
    rough = 2 * step if apart and max(map(len, prompts), default=0) > LEAST else 1
    return [round_up(len(prompt), rough) for prompt in prompts]


def read(
    model: Decoder, layers: Layers | None, prompts: Prompts, kernel: Kernel, int8: bool = False
) -> tuple[jax.Array, Cache]:
    """Hidden states [A, R, D] of what follows the beginnings, and caches of all S columns."""
    (e, length), (a, r) = prompts.begun_EL.shape, prompts.rest_AR.shape
    cache = model.new_cache(a, r, int8)
    if length:
        all_EL = jnp.ones((e, length), bool)
        begun = model.extend(layers, prompts.begun_EL, all_EL, model.new_cache(e, length, int8), 0, kernel)[1]
        cache = _widened(begun, prompts.begun_A, r)
    return model.extend(layers, prompts.rest_AR, prompts.real_AR, cache, length, kernel)


def _widened(cache: Cache, rows_A: jax.Array, columns: int) -> Cache:
    """Some rows of a cache, with so many more columns on the right."""
    widen = lambda x: jnp.pad(x[rows_A], ((0, 0), (0, 0), (0, columns), (0, 0)))
    keys, values = jax.tree.map(widen, (cache.keys, cache.values))
    positions_AS = jnp.pad(cache.positions[rows_A], ((0, 0), (0, columns)), constant_values=-1)
    return Cache(keys, values, tuple(x[rows_A] for x in cache.last), positions_AS)

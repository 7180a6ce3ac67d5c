"""Keys and values in pages, a row's tokens one after the other: of a row TPU's ragged kernel reads the pages that are
filled, where matrix products read every column of every row.

Shapes: B rows, N pages of a row, G key/value heads, H query heads, E head width, S columns.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention

from ratchet.models.kernels import LANES, Kernel, Scores, axis_size, on_each_device

PAGE, PAGES_AT_ONCE, QUERIES_AT_ONCE, MOST_ROWS = 64, 4, 32, 1024
"""Tokens of a page; pages that the kernel reads and queries that it works on together; rows whose pages its memory of
scalars can list."""


class Pages(NamedTuple):
    """[B, N, PAGE, 2G, E], of each head its keys and then its values."""

    both: jax.Array


def fits(kernel: Kernel, rows: int, heads: int, kv_heads: int, width: int, dtype: str) -> bool:
    """Whether the kernel is at hand and takes such keys and values: heads as wide as lanes, which fill whole tiles, and
    queries that fill whole blocks; and no more rows than its table of pages has room for."""
    mesh, of_rows, of_heads = kernel.axes
    parts, packed = axis_size(mesh, of_heads), 4 // jnp.dtype(dtype).itemsize
    both, own = 2 * kv_heads // parts, rows // axis_size(mesh, of_rows)
    even = kv_heads % parts == 0 and rows % axis_size(mesh, of_rows) == 0
    tiled = both % packed == 0 and (both // packed in (1, 2, 4) or both // packed % 8 == 0)
    block = (8 * packed if both % (8 * packed) == 0 else both) // 2 * (heads // kv_heads)
    whole = block % 8 == 0 or block == heads // parts
    asked = kernel.platform == "tpu" and kernel.attention in ("auto", "splash")
    return asked and even and tiled and whole and width == LANES and own <= MOST_ROWS


def empty(batch: int, length: int, kv_heads: int, width: int, dtype) -> Pages:
    """Room for `length` tokens a row, in whole pages."""
    return Pages(jnp.zeros((batch, length // PAGE, PAGE, 2 * kv_heads, width), dtype))


def of_columns(k_BGSE: jax.Array, v_BGSE: jax.Array, positions_BS: jax.Array, length: int) -> Pages:
    """Keys and values of rows that are padded on the left, as pages with room for `length` tokens; what comes behind a
    row's own tokens is never read."""
    b, g, s, e = k_BGSE.shape
    both_BSGE = jnp.stack([k_BGSE, v_BGSE], axis=2).transpose(0, 3, 1, 2, 4).reshape(b, s, 2 * g, e)
    columns_BS = jnp.argmax(positions_BS >= 0, axis=1)[:, None] + jnp.arange(length)
    moved = jnp.take_along_axis(both_BSGE, jnp.minimum(columns_BS, s - 1)[:, :, None, None], axis=1)
    return Pages(moved.reshape(b, -1, PAGE, 2 * g, e))


def written(pages: Pages, k_B1GE: jax.Array, v_B1GE: jax.Array, at_B: jax.Array, kernel: Kernel) -> Pages:
    """A token's keys and values in their places: a copy a row, all at once; a scatter takes one after the other."""

    def own(both, new_B2GE, at_B) -> jax.Array:
        flat = both.reshape(-1, *both.shape[3:])
        place_B = jnp.arange(len(both)) * (both.shape[1] * PAGE) + at_B
        anywhere = pl.BlockSpec(memory_space=pl.ANY)
        call = pl.pallas_call(
            _write, out_shape=jax.ShapeDtypeStruct(flat.shape, flat.dtype), input_output_aliases={2: 0},
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1, grid=(1,), in_specs=[anywhere, anywhere], out_specs=anywhere,
                scratch_shapes=[pltpu.SemaphoreType.DMA],
            ),
        )
        return call(place_B.astype(jnp.int32), new_B2GE, flat).reshape(both.shape)

    new_B2GE = jnp.stack([k_B1GE[:, 0], v_B1GE[:, 0]], axis=2).reshape(len(at_B), -1, k_B1GE.shape[-1])
    put = on_each_device(own, kernel, "pages", "kv", "rows", out="pages")
    return Pages(put(pages.both, new_B2GE, at_B))


def _write(place_B, new_B2GE, _, flat, arrived) -> None:
    """The kernel: copies each row's token to its place in the flat list of all tokens."""

    def copy(row):
        return pltpu.make_async_copy(new_B2GE.at[pl.ds(row, 1)], flat.at[pl.ds(place_B[row], 1)], arrived)

    jax.lax.fori_loop(0, len(place_B), lambda row, _: copy(row).start(), None)
    jax.lax.fori_loop(0, len(place_B), lambda row, _: copy(row).wait(), None)


def attend(q_B1HE: jax.Array, pages: Pages, at_B: jax.Array, sliding: bool, scores: Scores,
           kernel: Kernel) -> jax.Array:
    """Attention of each row's token, which stands `at_B`, to what stands before it and to itself."""

    def own(q_B1HE, both, at_B) -> jax.Array:
        b, n = both.shape[:2]
        index_BN, each = jnp.arange(b * n, dtype=jnp.int32).reshape(b, n), jnp.arange(b + 1, dtype=jnp.int32)
        return ragged_paged_attention(
            q_B1HE[:, 0], both.reshape(b * n, *both.shape[2:]), at_B + 1, index_BN, each, jnp.array([b], jnp.int32),
            sm_scale=scores.scale, sliding_window=scores.window if sliding else None, soft_cap=scores.softcap or None,
            num_kv_pages_per_block=min(PAGES_AT_ONCE, n), num_queries_per_block=min(QUERIES_AT_ONCE, b),
        )[:, None]

    return on_each_device(own, kernel, "q", "pages", "rows", out="q")(q_B1HE, pages.both, at_B)

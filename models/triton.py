"""Attention of one new token a row, as GPUs decode: a Triton kernel that reads the blocks of a ring in which a row has
tokens, and the prompt that several rows share from one of them.

Rows whose prompts are the same are worked on at about the same time, so that the card's cache may still hold what the
first of them has read. Shapes: B rows, S columns, the first P of them for prompts, H query heads, G key/value heads
(H = G·R), E head width, C columns of a block, N parts that a row's columns are read in, F words of a fingerprint.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as gpu

from ratchet.models import cudnn
from ratchet.models.kernels import Kernel, Scores, axis_size, on_each_device

LEAST, MOST, WIDEST = 16, 128, 256
"""Columns of a block at least, as of any product of Triton's, and at most, for heads up to half as wide as the WIDEST;
blocks of wider heads have half as many, since registers hold them."""
PROGRAMS = 512
"""Programs that fill a card: a row is read in parts where rows and heads are fewer."""
_NOTHING = -1e30
_TINY = float(jnp.finfo(jnp.float32).tiny)
"""What stands for the sum of the weights of a row without a token, which is 0."""


class Shared(NamedTuple):
    """Whose prompts are the same: fingerprints [B, F] of the prompts in the first P columns of rows, padded on the left
    alike, and which rows are at work [B]."""

    print_BF: jax.Array
    busy_B: jax.Array
    columns: int


def fits(kernel: Kernel, rows: int, kv_heads: int, head_width: int, columns: int, dtype: str) -> bool:
    """Whether the kernel is asked for and takes such keys and values, after prompts of so many columns: in bfloat16 on
    a GPU that multiplies such numbers, or, by an interpreter, on a CPU."""
    mesh, of_rows, of_heads = kernel.axes
    even = kv_heads % axis_size(mesh, of_heads) == 0 and rows % axis_size(mesh, of_rows) == 0
    whole = columns % LEAST == 0 and LEAST <= head_width <= WIDEST and head_width & (head_width - 1) == 0
    runs = kernel.platform == "cpu" or (kernel.platform == "gpu" and dtype == "bfloat16" and cudnn.capability() >= 8)
    return kernel.attention == "triton" and even and whole and runs


def attend(
    q_B1HE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, positions_B1: jax.Array, positions_BS: jax.Array,
    window: int, scores: Scores, kernel: Kernel, shared: Shared,
) -> jax.Array:  # fmt: skip
    """Attention of each row's token to the tokens of its row, by position; below 0 is no token. With a `window`, only
    the last so many tokens are seen. Of rows that are not at work nothing is read, and 0 is given."""
    own = functools.partial(
        _attend, window=window, scores=scores, columns=shared.columns, interpret=kernel.platform != "gpu"
    )
    at_B1 = jnp.where(shared.busy_B[:, None], positions_B1, -1)
    laid = "q", "kv", "kv", "rows", "rows", "rows", "rows"
    operands = q_B1HE, k_BGSE, v_BGSE, at_B1, positions_BS, shared.print_BF, shared.busy_B
    return on_each_device(own, kernel, *laid)(*operands)


def leaders(print_BF: jax.Array, busy_B: jax.Array) -> jax.Array:
    """For each row at work the first row at work that has the same prompt."""
    same_BB = jnp.all(print_BF[:, None] == print_BF[None], axis=-1) & busy_B[None]
    return jnp.argmax(same_BB, axis=1).astype(jnp.int32)


def _attend(
    q_B1HE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, at_B1: jax.Array, positions_BS: jax.Array,
    print_BF: jax.Array, busy_B: jax.Array, *, window: int, scores: Scores, columns: int, interpret: bool,
) -> jax.Array:  # fmt: skip
    """Attention of a device's own rows and heads: whole rows by the kernel, or parts of them, put together after it."""
    (b, _, h, e), (g, s) = q_B1HE.shape, k_BGSE.shape[1:3]
    block = math.gcd(columns, MOST if 2 * e <= WIDEST else MOST // 2)
    height, blocks = max(LEAST, pl.next_power_of_2(h // g)), pl.cdiv(s, block)
    each = pl.cdiv(blocks, min(blocks, pl.cdiv(PROGRAMS, b * g)))
    q_BGRE, parts = q_B1HE.reshape(b, g, h // g, e), pl.cdiv(blocks, each)
    made = [((e,), q_B1HE.dtype)] if parts == 1 else [((e,), jnp.float32), *[((), jnp.float32)] * 2]
    whole = pl.BlockSpec(memory_space=pl.ANY)
    by_program = lambda *last: pl.BlockSpec(
        (None, None, None, height, *last), lambda row, head, part: (row, head, part, 0, *(0 for _ in last))
    )
    of_row = pl.BlockSpec((None, None, height, e), lambda row, head, part: (row, head, 0, 0))
    sizes = {"columns": columns, "block": block, "each": each, "real": h // g}
    kernel = functools.partial(_part, scores=scores, window=window, **sizes)
    found = pl.pallas_call(
        kernel, grid=(b, g, parts), in_specs=[of_row, *[whole] * 5],
        out_specs=[by_program(*last) for last, _ in made],
        out_shape=[jax.ShapeDtypeStruct((b, g, parts, h // g, *last), dtype) for last, dtype in made],
        compiler_params=gpu.CompilerParams(num_warps=4, num_stages=2), interpret=interpret,
    )(q_BGRE, k_BGSE, v_BGSE, at_B1[:, 0], positions_BS, leaders(print_BF, busy_B))  # fmt: skip
    if parts == 1:
        return found[0].reshape(b, 1, h, e)
    mixed, most, total = found
    share = jnp.exp(most - jnp.max(most, axis=2, keepdims=True))
    weight = jnp.maximum(jnp.sum(total * share, axis=2), _TINY)
    summed = jnp.sum(mixed * share[..., None], axis=2) / weight[..., None]
    return summed.reshape(b, 1, h, e).astype(q_B1HE.dtype)


def _part(
    query_ref, k_BGSE, v_BGSE, at_B, positions_BS, leader_B, *made_refs, scores: Scores,
    window: int, columns: int, block: int, each: int, real: int,
) -> None:  # fmt: skip
    """The kernel. It gives, of some blocks of a row's columns and for the `real` queries of one head of keys, what
    values sum up to, weighed by the exponentials of scores less the largest; that largest score; and the sum of the
    weights. Where a row's columns are no more than these, it gives the mean of the values alone."""
    row, head, part = (pl.program_id(axis) for axis in range(3))
    height = query_ref.shape[0]  # a product has more rows than there are queries
    is_real_R, all_R = jnp.arange(height) < real, pl.ds(0, height)
    q_RE = gpu.load(query_ref.at[all_R, :], mask=is_real_R[:, None], other=0)
    at, leader = at_B[row], leader_B[row]

    def add(number, sums):
        first = (part * each + number) * block
        there = pl.ds(first, block)
        inside_C = first + jnp.arange(block) < positions_BS.shape[1]
        position_C = gpu.load(positions_BS.at[row, there], mask=inside_C, other=-1)
        seen_C = (position_C >= 0) & (position_C <= at)
        if window:
            seen_C &= at - position_C < window

        def with_block(sums):
            mixed_RE, most_R, total_R = sums
            of = jnp.where(first < columns, leader, row)
            load = lambda kept: gpu.load(kept.at[of, head, there, :], mask=inside_C[:, None], other=0)
            score_RC = gpu.dot(q_RE, load(k_BGSE).T) * scores.scale
            if scores.softcap:
                score_RC = scores.softcap * jnp.tanh(score_RC / scores.softcap)
            score_RC = jnp.where(seen_C[None], score_RC, _NOTHING)
            larger_R = jnp.maximum(most_R, jnp.max(score_RC, axis=1))
            weight_RC = jnp.where(seen_C[None], jnp.exp(score_RC - larger_R[:, None]), 0.0)
            shrunk_R = jnp.exp(most_R - larger_R)
            value_RE = gpu.dot(weight_RC.astype(v_BGSE.dtype), load(v_BGSE))
            return mixed_RE * shrunk_R[:, None] + value_RE, larger_R, total_R * shrunk_R + jnp.sum(weight_RC, axis=1)

        return jax.lax.cond(jnp.max(seen_C.astype(jnp.int32)) > 0, with_block, lambda sums: sums, sums)

    nothing_R = jnp.zeros(height, jnp.float32)
    begun = jnp.zeros(q_RE.shape, jnp.float32), nothing_R + _NOTHING, nothing_R
    mixed, most, total = jax.lax.fori_loop(0, each, add, begun)
    mixed_ref, *others = made_refs
    if others:
        gpu.store(others[0].at[all_R], most, mask=is_real_R)
        gpu.store(others[1].at[all_R], total, mask=is_real_R)
    else:
        mixed = (mixed / jnp.maximum(total, _TINY)[:, None]).astype(mixed_ref.dtype)
    gpu.store(mixed_ref.at[all_R, :], mixed, mask=is_real_R[:, None])

"""Attention of one new token a row, as GPUs decode: a Triton kernel that reads the blocks of a ring in which a row has
tokens, and the prompt that several rows share from one of them.

Rows whose prompts are the same are worked on at once, so that the card's cache holds what the first of them has read.
Shapes: B rows, S columns, the first P of them for prompts, H query heads, G key/value heads (H = G·R), E head width, C
columns of a block, N parts that a row's columns are read in, F words of a fingerprint.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from ratchet.models.kernels import Kernel, Scores, on_each_device

LEAST, MOST = 16, 128
"""Columns of a block, and rows of a product: Triton multiplies no fewer, and more do not fit into registers."""
PROGRAMS = 512
"""Programs that fill a card: a row is read in parts where rows and heads are fewer."""
_NOTHING = -1e30


class Prompts(NamedTuple):
    """Whose prompts are the same: fingerprints [B, F] of the prompts in the first P columns of rows, and which rows are
    at work [B]: of the others a prompt may be gone."""

    print_BF: jax.Array
    busy_B: jax.Array
    columns: int


def fits(kernel: Kernel, columns: int, head_width: int, dtype: str) -> bool:
    """Whether the kernel is asked for and takes such keys and values, after prompts of so many columns. On other
    devices than GPUs an interpreter runs it."""
    whole = columns % LEAST == 0 and LEAST <= head_width <= 256 and head_width & (head_width - 1) == 0
    return kernel.attention == "triton" and whole and (kernel.platform != "gpu" or dtype == "bfloat16")


def attend(
    q_B1HE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, positions_B1: jax.Array, positions_BS: jax.Array,
    window: int, scores: Scores, kernel: Kernel, prompts: Prompts,
) -> jax.Array:  # fmt: skip
    """Attention of each row's token to the tokens of its row, by position; below 0 is no token. With a `window`, only
    the last so many tokens are seen."""
    own = functools.partial(
        _attend, window=window, scores=scores, columns=prompts.columns, interpret=kernel.platform != "gpu"
    )
    laid = "q", "kv", "kv", "rows", "rows", "rows", "rows"
    operands = q_B1HE, k_BGSE, v_BGSE, positions_B1, positions_BS, prompts.print_BF, prompts.busy_B
    return on_each_device(own, kernel, *laid)(*operands)


def leaders(print_BF: jax.Array, busy_B: jax.Array) -> jax.Array:
    """For each row the first row at work that has the same prompt; for one that is not at work itself."""
    same_BB = jnp.all(print_BF[:, None] == print_BF[None], axis=-1) & busy_B[None]
    return jnp.where(busy_B, jnp.argmax(same_BB, axis=1), jnp.arange(len(busy_B))).astype(jnp.int32)


def _attend(
    q_B1HE: jax.Array, k_BGSE: jax.Array, v_BGSE: jax.Array, positions_B1: jax.Array, positions_BS: jax.Array,
    print_BF: jax.Array, busy_B: jax.Array, *, window: int, scores: Scores, columns: int, interpret: bool,
) -> jax.Array:  # fmt: skip
    """Attention of a device's own rows and heads: parts of rows by the kernel, put together after it."""
    (b, _, h, e), (g, s) = q_B1HE.shape, k_BGSE.shape[1:3]
    block, height = math.gcd(columns, MOST), max(LEAST, pl.next_power_of_2(h // g))
    blocks = pl.cdiv(s, block)
    each = pl.cdiv(blocks, min(blocks, pl.cdiv(PROGRAMS, b * g)))
    parts = pl.cdiv(blocks, each)
    q_BGRE = jnp.pad(q_B1HE.reshape(b, g, h // g, e), ((0, 0), (0, 0), (0, height - h // g), (0, 0)))
    whole, shape = pl.BlockSpec(memory_space=pl.ANY), (b, g, parts, height)
    by_program = lambda *last: pl.BlockSpec(
        (None, None, None, height, *last), lambda row, head, part: (row, head, part, 0, *(0 for _ in last))
    )
    of_row = pl.BlockSpec((None, None, height, e), lambda row, head, part: (row, head, 0, 0))
    mixed, most, total = pl.pallas_call(
        functools.partial(_part, scores=scores, window=window, columns=columns, block=block, each=each),
        grid=(b, g, parts), in_specs=[of_row, *[whole] * 5], out_specs=[by_program(e), by_program(), by_program()],
        out_shape=[jax.ShapeDtypeStruct((*shape, *last), jnp.float32) for last in ((e,), (), ())],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2), interpret=interpret,
    )(q_BGRE, k_BGSE, v_BGSE, positions_B1[:, 0], positions_BS, leaders(print_BF, busy_B))  # fmt: skip
    share = jnp.exp(most - jnp.max(most, axis=2, keepdims=True))
    weight = jnp.maximum(jnp.sum(total * share, axis=2), jnp.finfo(jnp.float32).tiny)  # 0 of a row without a token
    summed = jnp.sum(mixed * share[..., None], axis=2) / weight[..., None]
    return summed[:, :, : h // g].reshape(b, 1, h, e).astype(q_B1HE.dtype)


def _part(
    q_RE, k_BGSE, v_BGSE, at_B, positions_BS, leader_B, mixed_RE, most_R, total_R, *, scores: Scores, window: int,
    columns: int, block: int, each: int,
) -> None:  # fmt: skip
    """The kernel. It gives, of some blocks of a row's columns and for the queries of one head of keys, what values sum
    up to, weighed by the exponentials of scores less the largest; that largest score; and the sum of the weights."""
    row, head, part = (pl.program_id(axis) for axis in range(3))
    q, at, leader = q_RE[...], at_B[row], leader_B[row]

    def add(number, sums):
        first = (part * each + number) * block
        column_C = first + jnp.arange(block)
        inside_C = column_C < positions_BS.shape[1]
        there = pl.ds(first, block)
        position_C = triton.load(positions_BS.at[row, there], mask=inside_C, other=-1)
        seen_C = (position_C >= 0) & (position_C <= at)
        if window:
            seen_C &= at - position_C < window

        def with_block(sums):
            mixed, most, total = sums
            of = jnp.where(first < columns, leader, row)
            load = lambda kept: triton.load(kept.at[of, head, there, :], mask=inside_C[:, None], other=0)
            score = triton.dot(q, load(k_BGSE).T) * scores.scale
            if scores.softcap:
                score = scores.softcap * jnp.tanh(score / scores.softcap)
            score = jnp.where(seen_C[None], score, _NOTHING)
            larger = jnp.maximum(most, jnp.max(score, axis=1))
            weight, shrunk = jnp.where(seen_C[None], jnp.exp(score - larger[:, None]), 0.0), jnp.exp(most - larger)
            mixed = mixed * shrunk[:, None] + triton.dot(weight.astype(v_BGSE.dtype), load(v_BGSE))
            return mixed, larger, total * shrunk + jnp.sum(weight, axis=1)

        return jax.lax.cond(jnp.max(seen_C.astype(jnp.int32)) > 0, with_block, lambda sums: sums, sums)

    nothing_R = jnp.zeros(q.shape[0], jnp.float32)
    begun = jnp.zeros(q.shape, jnp.float32), nothing_R + _NOTHING, nothing_R
    mixed_RE[...], most_R[...], total_R[...] = jax.lax.fori_loop(0, each, add, begun)

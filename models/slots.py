"""The device side of sampling: slots with a cache each, a queue of prompts that were read, and dispatches of steps.

Shapes: B slots, Q queued requests (as many), R requests, A distinct prompts, P prompt columns, N new tokens, C steps of
a dispatch, G requests that were given up, K kept ids, M parts of the mesh that slots and queue are split into, D width,
V vocabulary, W words of 32 bits, an id a bit (None where no request has a grammar).

A slot's cache has P columns for its prompt, padded on the left, and a ring of N for what it says. All slots write the
same column of the ring in a step, whenever each began: keys are rotated by position before they are kept, so where
they lie does not matter, and one column is written in place. Where TPU's kernel reads pages (`models.pages`), each slot
fills its own, one after the other. Slots that become free inside a dispatch take the next of the queue; on a mesh, of
their own part of it, so that nothing is sent between chips.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.models import pages, triton
from ratchet.models.beginnings import Prompts, read
from ratchet.models.decoder import Cache, DecoderConfig
from ratchet.models.draw import Captured, Warp, capture, draw
from ratchet.models.inference import Inference, Weights, columns_for, round_up
from ratchet.models.programs import program

LEAST_STEPS, MOST_STEPS = 16, 64
"""A dispatch decodes for so many steps at most. When slots are free and further prompts have to be read for them, it
ends early, but not before the first of these numbers."""
WORDS = 2
"""F, of which the fingerprint of a prompt consists."""
REFILL = 32
"""Free slots are refilled as soon as one slot in so many is free."""


@dataclass(frozen=True)
class Plan(Inference):
    """What a sampler compiles for. `keep` ids of every distribution are captured (0: nothing is), and a request says
    `new_tokens` at most."""

    slots: int
    """Rows that sample at a time; as many more requests wait in the queue, their prompts read."""
    new_tokens: int
    keep: int
    bucket: int = 32
    """Prompts are padded to multiples of this, of which accelerators use few: every width is compiled for."""
    int8: bool = False
    """Keys and values take a byte a number: half the memory and traffic of bfloat16."""

    def paged(self, model: DecoderConfig) -> bool:
        """Whether slots keep pages, each its own one after the other, instead of a ring that all turn together."""
        heads = model.heads, model.kv_heads, model.head_size
        return not self.int8 and pages.fits(self.kernel, self.slots, *heads, self.dtype)

    def shares(self, model: DecoderConfig, columns: int) -> bool:
        """Whether slots are told which of them have the same prompt, for a kernel that reads it once."""
        sizes = self.slots, model.kv_heads, model.head_size, columns
        return not self.int8 and triton.fits(self.kernel, *sizes, self.dtype)

    def reads_apart(self, config: DecoderConfig) -> bool:
        """As of any `Inference`; but where slots may share a prompt, all lay it out alike, padded on the left."""
        return super().reads_apart(config) and self.attention != "triton"

    def length(self, model: DecoderConfig, columns: int) -> int:
        """Columns of a slot's cache: those for prompts, and those for what is said, in whole pages where there are
        pages."""
        return columns + round_up(self.new_tokens, pages.PAGE if self.paged(model) else 1)

    def columns(self, model: DecoderConfig, longest: int) -> int:
        """P, the columns for prompts of so many tokens: whole buckets, and whole pages where there are pages. A
        step compiles for each number: of a deep model they are few on CPUs too."""
        bucket = math.lcm(self.bucket, pages.PAGE if self.paged(model) else 1)
        return columns_for(longest, bucket, self.compiles_long(model))

    @property
    def distinct(self) -> int:
        """Rows in which prompts are read where so few of them are distinct; each part of the mesh has as many."""
        return round_up(max(self.slots // 8, 1), self.parts)

    def width(self, longest: int, columns: int) -> int:
        """Columns that prompts of so many tokens are read in, of those that slots have: on accelerators all, since
        each pair of the two numbers would compile."""
        return columns if self.few else round_up(longest, self.bucket)


class Queue(NamedTuple):
    """Requests whose prompts have been read: the last hidden state [Q, D], the cache of the P columns of their prompts,
    their indices and ids, which ids their answers may begin with, and the fingerprints of their prompts, where slots
    share them; of each part the first `count` are real."""

    hidden_QD: jax.Array
    cache: Cache
    index_Q: jax.Array
    id_Q: jax.Array
    allowed_QW: jax.Array | None
    print_QF: jax.Array | None
    count_M: jax.Array


class Slots(NamedTuple):
    """What slots work at: the request's index or -1, its id, the tokens it has said, what it may say next, and the
    fingerprint of its prompt, where slots share prompts; how many of each part of the queue have been taken; and the
    next column of the ring."""

    hidden_BD: jax.Array
    cache: Cache
    index_B: jax.Array
    id_B: jax.Array
    said_B: jax.Array
    allowed_BW: jax.Array | None
    print_BF: jax.Array | None
    taken_M: jax.Array
    column: jax.Array


class Steps(NamedTuple):
    """What the steps of a dispatch gave: by step and slot the request's index (-1: none), token and distribution."""

    index_CB: jax.Array
    token_CB: jax.Array
    captured_CB: Captured


class Progress(NamedTuple):
    """Where a dispatch ended: steps done, requests taken of the queue and slots at work by part, and the index of the
    request that each slot works at (-1: none)."""

    steps: jax.Array
    taken_M: jax.Array
    working_M: jax.Array
    index_B: jax.Array


class Settings(NamedTuple):
    """What requests are sampled by: the ids that end any of them, and [R] by a request's index (R = 1: the same for
    all) seeds, warps, and how many tokens they may say, at most those of the plan."""

    stop: jax.Array
    seed_R: jax.Array
    warp_R: Warp
    longest_R: jax.Array


@functools.partial(jax.jit, static_argnames=("columns", "words", "plan"), keep_unused=True)
def empty(weights: Weights, columns: int, words: int, plan: Plan) -> Slots:
    """Free slots for prompts of so many columns, with so many words of allowed ids, on the device of the weights."""
    model, batch = nnx.merge(plan.graphdef, weights.params), plan.slots
    cache = model.new_cache(batch, plan.length(model.config, columns), plan.int8, plan.paged(model.config))
    nothing_B = jnp.zeros(batch, jnp.int32)
    hidden_BD, taken_M = jnp.zeros((batch, model.config.width), plan.dtype), jnp.zeros(plan.parts, jnp.int32)
    requests = nothing_B - 1, nothing_B.astype(jnp.uint32), nothing_B
    allowed_BW = jnp.full((batch, words), -1, jnp.int32) if words else None
    print_BF = jnp.zeros((batch, WORDS), jnp.uint32) if plan.shares(model.config, columns) else None
    return plan.over_rows(Slots(hidden_BD, cache, *requests, allowed_BW, print_BF, taken_M, jnp.int32(0)))


def anew(slots: Slots) -> Slots:
    """The slots before a new queue, of which nothing has been taken. It lies where the old number lay: a dispatch would
    be compiled anew for another layout."""
    none_M = np.zeros(slots.taken_M.shape, slots.taken_M.dtype)
    return slots._replace(taken_M=jax.device_put(none_M, slots.taken_M.sharding))


@program(static_argnames=("columns", "plan"))
def prefill(weights: Weights, prompts: Prompts, prompt_Q, *, columns: int, plan: Plan) -> tuple[jax.Array, Cache]:
    """Last hidden states [Q, D] and caches of `columns` columns for the requests of a queue, each with the prompt that
    `prompt_Q` says; None: each with its own."""
    model = nnx.merge(plan.graphdef, weights.params)
    if prompt_Q is None:
        prompts = prompts._replace(rest_AR=plan.over_rows(prompts.rest_AR))
    layers = plan.layers(weights, model.config)
    hidden_APD, cache = read(model, layers, prompts, plan.kernel, plan.int8)
    hidden_QD, cache = jax.tree.map(lambda x: x if prompt_Q is None else x[prompt_Q], (hidden_APD[:, -1], cache))
    return plan.over_rows((hidden_QD, (_in_pages if plan.paged(model.config) else _to_the_right)(cache, columns)))


def _to_the_right(cache: Cache, columns: int) -> Cache:
    """A cache with so many columns, its own the last of them."""
    room = columns - cache.positions.shape[1]
    keys, values = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (room, 0), (0, 0))), (cache.keys, cache.values))
    positions_QP = jnp.pad(cache.positions, ((0, 0), (room, 0)), constant_values=-1)
    return Cache(keys, values, cache.last, positions_QP)


def _in_pages(cache: Cache, columns: int) -> Cache:
    """A cache in pages for so many tokens a row."""
    given = zip(cache.keys, cache.values, strict=True)
    keys = tuple(pages.of_columns(*both, cache.positions, columns) for both in given)
    length_Q1 = jnp.max(cache.positions, axis=1, keepdims=True) + 1
    positions_QP = jnp.where(jnp.arange(columns) < length_Q1, jnp.arange(columns), -1)
    return Cache(keys, (None,) * len(keys), cache.last, positions_QP)


@program(static_argnames=("cuts", "plan"), donate_argnames="slots")
def dispatch(
    weights: Weights, slots: Slots, queue: Queue, settings: Settings, most, more, *, cuts: bool, plan: Plan
) -> tuple[Slots, Progress, Steps]:
    """Decodes up to `most` steps, refilling slots from the queue; with 0, requests only take their slots.

    `more` says that there is more to queue: then it returns when slots are free that the queue cannot fill. With
    grammars there is one step at most: what is allowed next is for the host to say.
    """
    model = nnx.merge(plan.graphdef, weights.params)
    head_DV = model.head_DV()

    def goes_on(carry) -> jax.Array:
        slots, step, _ = carry
        free, fillable = _free_and_fillable(slots, queue, plan)
        is_starved = more & (step >= LEAST_STEPS) & ((free - fillable) * REFILL >= plan.slots)
        return jnp.any(slots.index_B >= 0) & (step < most) & ~is_starved

    def goes_on_unseated(carry) -> jax.Array:
        _, fillable = _free_and_fillable(carry[0], queue, plan)
        return goes_on(carry) & (fillable * REFILL < plan.slots)

    def step(carry):
        slots, number, out = carry
        choose, logits_BV = plan.over_parts(_choose, cuts, whole=Settings), model.logits(slots.hidden_BD, head_DV)
        token_B, ends_B, captured = choose(logits_BV, slots, settings)
        busy_B = slots.index_B >= 0
        out = jax.tree.map(lambda all_C, one: all_C.at[number].set(one), out, Steps(slots.index_B, token_B, captured))
        said_B1 = jnp.where(busy_B, token_B, 0)[:, None]
        tokens = weights.layers, said_B1, busy_B[:, None], slots.cache
        if plan.paged(model.config):
            hidden_B1D, cache = model.extend_pages(*tokens, plan.kernel)
        else:
            columns = slots.cache.positions.shape[1] - plan.new_tokens
            shared = None if slots.print_BF is None else triton.Shared(slots.print_BF, busy_B, columns)
            hidden_B1D, cache = model.extend(*tokens, columns + slots.column, plan.kernel, shared)
        slots = slots._replace(
            hidden_BD=hidden_B1D[:, 0], cache=cache, index_B=jnp.where(ends_B, -1, slots.index_B),
            said_B=slots.said_B + 1, column=(slots.column + 1) % plan.new_tokens,
        )
        return plan.over_rows(slots), number + 1, out

    def seated(carry):
        slots, number, out = carry
        return plan.over_parts(_seat, whole=Settings)(slots, queue), number, out

    steps_then_seats = lambda carry: seated(jax.lax.while_loop(goes_on_unseated, step, carry))
    out = _no_steps(MOST_STEPS if slots.allowed_BW is None else 1, plan)
    slots, steps, out = jax.lax.while_loop(goes_on, steps_then_seats, seated((slots, 0, out)))
    progress = Progress(steps, slots.taken_M, _working(slots, plan), slots.index_B)
    return plan.over_rows(slots), *plan.everywhere((progress, out))


@functools.partial(jax.jit, static_argnames="plan")
def allow(allowed_BW: jax.Array, still_B: jax.Array, next_BW: jax.Array, *, plan: Plan) -> jax.Array:
    """What slots may say next [B, W]: `next_BW` where they still work at the same request, else what it was."""
    return plan.over_rows(jnp.where(still_B[:, None], next_BW, allowed_BW))


@functools.partial(jax.jit, static_argnames="plan")
def leave(index_B: jax.Array, gone_G: jax.Array, *, plan: Plan) -> jax.Array:
    """What slots work at when the requests of these indices have been given up; -1 among them is none."""
    return plan.over_rows(jnp.where(jnp.isin(index_B, gone_G), -1, index_B))


def starved(working_M: np.ndarray, queued_M: np.ndarray, plan: Plan) -> bool:
    """Whether so many slots are free beyond what the queue can fill, of each part with its own, that a refill is
    due."""
    free_M = plan.slots // plan.parts - working_M
    return int(np.sum(free_M - np.minimum(free_M, queued_M))) * REFILL >= plan.slots


def _working(slots: Slots, plan: Plan) -> jax.Array:
    """Slots at work [M]."""
    return jnp.sum(slots.index_B.reshape(plan.parts, -1) >= 0, axis=1)


def _free_and_fillable(slots: Slots, queue: Queue, plan: Plan) -> tuple[jax.Array, jax.Array]:
    """Free slots, and how many of them the queue can fill."""
    free_M = plan.slots // plan.parts - _working(slots, plan)
    return jnp.sum(free_M), jnp.sum(jnp.minimum(free_M, queue.count_M - slots.taken_M))


def _no_steps(count: int, plan: Plan) -> Steps:
    """Room for what `count` steps give."""
    nothing_CB, tail_CB = jnp.full((count, plan.slots), -1, jnp.int32), jnp.zeros((count, plan.slots))
    probs_CBK = jnp.zeros((*tail_CB.shape, plan.keep))
    return Steps(nothing_CB, nothing_CB, Captured(probs_CBK.astype(jnp.int32), probs_CBK, tail_CB))


def _choose(
    plan: Plan, cuts: bool, logits_BV, slots: Slots, settings: Settings
) -> tuple[jax.Array, jax.Array, Captured]:
    """The next token of every slot, whether it is the last, and its distribution."""
    own = lambda of_R: jnp.take(of_R, slots.index_B, mode="clip")
    logits_BV, key_B = plan.of_tokens(logits_BV), jax.vmap(jax.random.key)(own(settings.seed_R))
    fold = jax.vmap(jax.random.fold_in)
    keys_B = fold(fold(key_B, slots.id_B), slots.said_B)
    allowed_BV = _bits(slots.allowed_BW, logits_BV.shape[1])
    uniform_B = jax.vmap(jax.random.uniform)(keys_B)
    warp_B = jax.tree.map(own, settings.warp_R)
    token_B = draw(jnp.where(allowed_BV, logits_BV, -jnp.inf), uniform_B, warp_B, cuts)
    ends_B = jnp.any(token_B[:, None] == settings.stop, axis=1) | (slots.said_B + 1 >= own(settings.longest_R))
    if plan.keep:
        return token_B, ends_B, capture(logits_BV, token_B, plan.keep)
    nothing_B0 = jnp.zeros((len(token_B), 0))
    return token_B, ends_B, Captured(nothing_B0.astype(jnp.int32), nothing_B0, jnp.ones(len(token_B)))


def _bits(allowed_BW: jax.Array | None, size: int) -> jax.Array:
    """[B, V], whether an id is allowed; all are where nothing says otherwise."""
    if allowed_BW is None:
        return jnp.array(True)
    return ((allowed_BW[:, :, None] >> jnp.arange(32)) & 1).astype(bool).reshape(len(allowed_BW), -1)[:, :size]


def _seat(plan: Plan, slots: Slots, queue: Queue) -> Slots:
    """Free slots take the next requests of the queue, one after the other: a row of the cache is copied in place."""
    free_B = slots.index_B < 0
    (row_B,) = jnp.nonzero(free_B, size=len(free_B), fill_value=0)
    seats = jnp.minimum(jnp.sum(free_B), queue.count_M[0] - slots.taken_M[0])
    room = slots.cache.positions.shape[1] - queue.cache.positions.shape[1]
    positions_QS = jnp.pad(queue.cache.positions, ((0, 0), (0, room)), constant_values=-1)
    read = queue.cache._replace(positions=positions_QS)  # what the slot said before is forgotten

    def seat(number, slots: Slots) -> Slots:
        row, place = row_B[number], slots.taken_M[0]
        put = lambda all_B, all_Q: jax.lax.dynamic_update_slice_in_dim(
            all_B, jax.lax.dynamic_slice_in_dim(all_Q, place, 1), row, 0
        )
        return slots._replace(
            hidden_BD=put(slots.hidden_BD, queue.hidden_QD), cache=jax.tree.map(put, slots.cache, read),
            index_B=put(slots.index_B, queue.index_Q), id_B=put(slots.id_B, queue.id_Q),
            allowed_BW=jax.tree.map(put, slots.allowed_BW, queue.allowed_QW),
            print_BF=jax.tree.map(put, slots.print_BF, queue.print_QF), said_B=slots.said_B.at[row].set(0),
            taken_M=slots.taken_M + 1,
        )

    return jax.lax.fori_loop(0, seats, seat, slots)

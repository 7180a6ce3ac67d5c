"""Sampling with a KV cache in slots that are refilled as sequences end, capturing every token's distribution.

Shapes: B slots, Q queued requests, A distinct prompts, P prompt columns, N new tokens, C steps of a dispatch, K kept
ids, D width, V vocabulary.

A slot's cache has P columns for its prompt, padded on the left, and a ring of N for what it says. All slots write the
same column of the ring in a step, whenever each began: keys are rotated by position before they are kept, so where
they lie does not matter, and one column is written in place. Prompts are read in advance into a queue, a prompt with
several requests once; inside the dispatch, slots that become free take the next of it. A request's randomness depends
only on (seed, request id, position): its slot, its neighbours and their order do not change what it says.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from models.decoder import Cache, Layers
from models.draw import Captured, Warp, capture, capture_draws, draw
from models.tokenizer import PAD

LEAST_STEPS, MOST_STEPS = 16, 64
"""Steps of a dispatch: it ends early, but not before the first, when slots are free and prompts have to be read."""
REFILL = 16
"""Free slots are refilled when they are one in so many."""


@dataclass(frozen=True)
class Request:
    """A prompt to continue. `id` seeds its randomness and must be unique within a call's seed."""

    id: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """What was sampled, without the stop token; `finished` is False when the length limit cut it off.

    tokens: int32 [N]; ids, probs: [N+1, K] when finished (the stop token's own position included), else [N, K];
    tail: the mass outside the kept ids. Distributions are taken before temperature and cuts.
    """

    tokens: np.ndarray
    finished: bool
    stop: int
    ids: np.ndarray
    probs: np.ndarray
    tail: np.ndarray


@dataclass
class Meter:
    """What the sampler has done: dispatches of decoding, their steps, and slots that worked in them, summed up."""

    dispatches: int = 0
    steps: int = 0
    working: int = 0
    slots: int = 0

    def count(self, steps: int, working: int, slots: int) -> None:
        self.dispatches += steps > 0
        self.steps += steps
        self.working += working
        self.slots += steps * slots

    @property
    def busy(self) -> float:
        """Share of slots that worked, weighted by steps."""
        return self.working / max(self.slots, 1)


class _Queue(NamedTuple):
    """Requests whose prompts have been read: the last hidden state [Q, D], the cache of P columns, and which they
    are; the first `count` are real."""

    hidden_QD: jax.Array
    cache: Cache
    index_Q: jax.Array
    id_Q: jax.Array
    count: jax.Array


class _Slots(NamedTuple):
    """What slots work at: the request's index or -1, its id, the tokens it has said; the next column of the ring; and
    how many of the queue have been taken."""

    hidden_BD: jax.Array
    cache: Cache
    index_B: jax.Array
    id_B: jax.Array
    said_B: jax.Array
    column: jax.Array
    taken: jax.Array


class _Steps(NamedTuple):
    """What the steps of a dispatch gave: by step and slot the request's index (-1: none), token and distribution."""

    index_CB: jax.Array
    token_CB: jax.Array
    captured_CB: Captured


@dataclass(frozen=True)
class Sampler:
    """Samples any number of requests in `slots` rows, longest prompts first.

    It compiles once for every width of prompts, in steps of `bucket`. `keep` ids are captured (0: nothing is), or with
    `draws` so many draws. `rows` lays the slots out over a mesh; results are then whole on every host.
    """

    graphdef: nnx.GraphDef
    slots: int
    """Rows that sample at a time; as many more prompts wait, read."""
    new_tokens: int
    keep: int
    bucket: int = 32
    draws: int = 0
    rows: NamedSharding | None = None
    meter: Meter = field(default_factory=Meter, compare=False)

    def __call__(
        self, params: nnx.State, requests: Sequence[Request], *, seed: int, temperature: float, stop: tuple[int, ...],
        top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, advance: Callable[[int], None] = lambda done: None,
    ) -> list[Sampled]:  # fmt: skip
        """Continues every request, in the order given. `advance(n)` is told of n more finished requests.

        Temperature 0 is greedy. Sampling ends at any id of `stop`. The cuts are those of `models.draw.Warp`.
        """
        if not requests:
            return []
        warp = Warp(temperature, top_k, top_p, min_p)
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), requests[i].prompt, i))
        columns = round_up(len(requests[order[0]].prompt), self.bucket)
        layers = _unstack(self.graphdef, params)
        slots = _empty(self.graphdef, params, self.slots, columns + self.new_tokens, self.rows)
        decode = functools.partial(
            _decode, self.graphdef, params, layers, seed=jnp.uint32(seed), warp=jax.tree.map(jnp.asarray, warp),
            stop=jnp.array(stop, jnp.int32), cuts=warp.cuts, sampler=self,
        )  # fmt: skip
        parts: list[_Steps] = []
        queue, queued, taken, working, done = None, 0, 0, 0, 0
        while done < len(requests):
            if queue is None or (taken == queued and order):
                now, order = order[: self.slots], order[self.slots :]
                queue, queued, taken = self._read(params, layers, [requests[i] for i in now], now, columns), len(now), 0
                slots = slots._replace(taken=jnp.int32(0))
            only_seat = bool(order) and working + queued - taken <= self.slots
            most = 0 if only_seat else MOST_STEPS
            slots, told, out = decode(slots, queue, most=jnp.int32(most), more=jnp.bool_(bool(order)))
            (steps, taken, working), part = jax.device_get((told, out))
            before, done = done, len(requests) - len(order) - int(queued - taken + working)
            parts.append(part)
            self.meter.count(int(steps), int(np.sum(part.index_CB >= 0)), self.slots)
            advance(done - before)
        return _by_request(parts, len(requests), stop)

    def _read(self, params, layers: Layers, requests: Sequence[Request], indices: Sequence[int], columns: int):
        """A queue of requests; prompts that several share are read once."""
        distinct = list(dict.fromkeys(r.prompt for r in requests))
        width = round_up(len(distinct[0]), self.bucket)
        few = max(self.slots // 8, 1)
        prompt_AP = left_pad(distinct, width, few if len(distinct) <= few else self.slots)
        place = {prompt: i for i, prompt in enumerate(distinct)}
        prompt_Q, index_Q, id_Q = (np.zeros(self.slots, kind) for kind in (np.int32, np.int32, np.uint32))
        count = len(requests)
        prompt_Q[:count], index_Q[:count] = [place[r.prompt] for r in requests], indices
        id_Q[:count] = [r.id & 0xFFFFFFFF for r in requests]
        hidden_QD, cache = _prefill(self.graphdef, params, layers, prompt_AP, prompt_Q, columns=columns)
        return _Queue(hidden_QD, cache, index_Q, id_Q, np.int32(count))


def left_pad(prompts: Sequence[Sequence[int]], width: int, rows: int) -> np.ndarray:
    """Token ids [rows, width], padded on the left; missing rows are padding alone."""
    out_BP = np.full((rows, width), PAD, np.int32)
    for row, prompt in enumerate(prompts):
        out_BP[row, width - len(prompt) :] = prompt
    return out_BP


def round_up(length: int, step: int) -> int:
    return -(-length // step) * step


@functools.partial(jax.jit, static_argnames="graphdef")
def _unstack(graphdef, params) -> Layers:
    return nnx.merge(graphdef, params).unstacked()


@functools.partial(jax.jit, static_argnames=("graphdef", "batch", "length", "rows"))
def _empty(graphdef, params, batch: int, length: int, rows: NamedSharding | None) -> _Slots:
    model = nnx.merge(graphdef, params)
    cache, nothing_B = model.new_cache(batch, length), jnp.zeros(batch, jnp.int32)
    hidden_BD = jnp.zeros((batch, model.config.width), cache.last[0].dtype)
    slots = _Slots(hidden_BD, cache, nothing_B - 1, nothing_B.astype(jnp.uint32), nothing_B, jnp.int32(0), jnp.int32(0))
    return slots if rows is None else _lay(slots, rows)


def _lay(slots: _Slots, rows: NamedSharding) -> _Slots:
    """Slots over the mesh's rows; the counters on all devices."""
    whole = NamedSharding(rows.mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, rows if x.ndim else whole), slots)


@functools.partial(jax.jit, static_argnames=("graphdef", "columns"))
def _prefill(graphdef, params, layers, prompt_AP, prompt_Q, *, columns: int):
    """Last hidden states [Q, D] and caches of `columns` columns for requests, whose prompts are read once each."""
    model = nnx.merge(graphdef, params)
    real_AP = prompt_AP != PAD
    hidden_APD, cache = model.extend(layers, prompt_AP, real_AP, model.new_cache(*prompt_AP.shape), 0)
    room = columns - prompt_AP.shape[1]
    widen = lambda x: jnp.pad(x[prompt_Q], ((0, 0), (0, 0), (room, 0), (0, 0)))
    keys, values = (tuple(map(widen, stack)) for stack in (cache.keys, cache.values))
    last = tuple(x[prompt_Q] for x in cache.last)
    positions_QP = jnp.pad(cache.positions[prompt_Q], ((0, 0), (room, 0)), constant_values=-1)
    return hidden_APD[:, -1][prompt_Q], Cache(keys, values, last, positions_QP)


@functools.partial(jax.jit, static_argnames=("graphdef", "cuts", "sampler"), donate_argnames="slots")
def _decode(graphdef, params, layers, slots: _Slots, queue: _Queue, *, seed, warp, stop, cuts, sampler, most, more):
    """Up to `most` steps, refilling slots from the queue; returns slots, (steps done, taken of the queue, slots at
    work) and what the steps gave.

    `more` says that there is more to queue: then it returns when the queue is empty and slots are free.
    """
    model = nnx.merge(graphdef, params)
    head_DV = model.head_DV()
    batch, width = slots.index_B.shape[0], sampler.draws or sampler.keep
    empty_CBK = jnp.zeros((MOST_STEPS, batch, width))
    nothing_CB = jnp.full((MOST_STEPS, batch), -1, jnp.int32)
    out = _Steps(nothing_CB, nothing_CB, Captured(empty_CBK.astype(jnp.int32), empty_CBK, empty_CBK[..., 0]))

    def waits(slots, step, left):
        """Whether enough slots are free for this to stop and be refilled: from the queue, or by the host."""
        free = jnp.sum(slots.index_B < 0) * REFILL >= batch
        return free & ((left > 0) | (more & (step >= LEAST_STEPS)))

    def decoding(carry):
        slots, step, _ = carry
        busy = jnp.any(slots.index_B >= 0)
        return busy & (step < most) & ~waits(slots, step, queue.count - slots.taken)

    def going(carry):
        slots, step, _ = carry
        return jnp.any(slots.index_B >= 0) & (step < most) & ~waits(slots, step, 0)

    def decode(carry):
        slots, step, out = carry
        key = jax.random.key(seed)
        keys_B = jax.vmap(lambda i, n: jax.random.fold_in(jax.random.fold_in(key, i), n))(slots.id_B, slots.said_B)
        logits_BV = model.logits(slots.hidden_BD, head_DV)
        token_B = draw(logits_BV, jax.vmap(jax.random.uniform)(keys_B), warp, cuts)
        captured = _capture(logits_BV, token_B, keys_B, sampler)
        busy_B = slots.index_B >= 0
        out = jax.tree.map(lambda all_C, one: all_C.at[step].set(one), out, _Steps(slots.index_B, token_B, captured))
        prompts = slots.cache.positions.shape[1] - sampler.new_tokens
        hidden_B1D, cache = model.extend(
            layers, jnp.where(busy_B, token_B, PAD)[:, None], busy_B[:, None], slots.cache, prompts + slots.column
        )
        ends_B = jnp.any(token_B[:, None] == stop, axis=1) | (slots.said_B + 1 == sampler.new_tokens)
        slots = slots._replace(
            hidden_BD=hidden_B1D[:, 0], cache=cache, index_B=jnp.where(ends_B, -1, slots.index_B),
            said_B=slots.said_B + 1, column=(slots.column + 1) % sampler.new_tokens,
        )  # fmt: skip
        return (slots if sampler.rows is None else _lay(slots, sampler.rows)), step + 1, out

    def refilled(carry):
        slots, step, out = jax.lax.while_loop(decoding, decode, carry)
        return _seat(slots, queue), step, out

    slots, steps, out = jax.lax.while_loop(going, refilled, (_seat(slots, queue), 0, out))
    if sampler.rows is not None:
        out = jax.lax.with_sharding_constraint(out, NamedSharding(sampler.rows.mesh, PartitionSpec()))
    return slots, (steps, slots.taken, jnp.sum(slots.index_B >= 0)), out


def _capture(logits_BV, token_B, keys_B, sampler: Sampler) -> Captured:
    if sampler.draws:
        uniform = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1), sampler.draws))
        return capture_draws(jax.nn.softmax(logits_BV), uniform(keys_B))
    if sampler.keep:
        return capture(jax.nn.softmax(logits_BV), token_B, sampler.keep)
    nothing_B0 = jnp.zeros((len(token_B), 0))
    return Captured(nothing_B0.astype(jnp.int32), nothing_B0, jnp.ones(len(token_B)))


def _seat(slots: _Slots, queue: _Queue) -> _Slots:
    """Free slots take the next requests of the queue, one after the other: a row of the cache is copied in place."""
    free_B = slots.index_B < 0
    (row_B,) = jnp.nonzero(free_B, size=len(free_B), fill_value=0)
    seats = jnp.minimum(jnp.sum(free_B), queue.count - slots.taken)

    def seat(number, slots: _Slots) -> _Slots:
        row, place = row_B[number], slots.taken
        put = lambda all_B, all_Q: jax.lax.dynamic_update_slice_in_dim(
            all_B, jax.lax.dynamic_slice_in_dim(all_Q, place, 1), row, 0
        )
        ring = slots.cache.positions.shape[1] - queue.cache.positions.shape[1]
        read = queue.cache._replace(
            positions=jnp.pad(queue.cache.positions, ((0, 0), (0, ring)), constant_values=-1)
        )  # what the slot said before is forgotten
        return slots._replace(
            hidden_BD=put(slots.hidden_BD, queue.hidden_QD), cache=jax.tree.map(put, slots.cache, read),
            index_B=put(slots.index_B, queue.index_Q), id_B=put(slots.id_B, queue.id_Q),
            said_B=slots.said_B.at[row].set(0), taken=place + 1,
        )  # fmt: skip

    return jax.lax.fori_loop(0, seats, seat, slots)


def _by_request(parts: Sequence[_Steps], count: int, stop: tuple[int, ...]) -> list[Sampled]:
    """What all dispatches gave, by request and in order."""
    steps = jax.tree.map(lambda *arrays: np.concatenate([a.reshape(-1, *a.shape[2:]) for a in arrays]), *parts)
    kept = np.flatnonzero(steps.index_CB >= 0)
    kept = kept[np.argsort(steps.index_CB[kept], kind="stable")]
    index, tokens, (ids, probs, tail) = (jax.tree.map(lambda a: a[kept], part) for part in steps)
    bounds = np.searchsorted(index, np.arange(count + 1))
    made = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        finished = bool(tokens[end - 1] in stop)
        said = tokens[start : end - finished]
        last = int(tokens[end - 1]) if finished else PAD
        made.append(Sampled(said, finished, last, ids[start:end], probs[start:end], tail[start:end]))
    return made

"""Sampling any number of requests: what is read and seated when, and what each request said.

Prompts are read in advance into a queue, a prompt with several requests once; `models.slots` is what runs on the
device. A request's randomness depends only on (seed, request id, position): its slot, its neighbours and their order do
not change what it says. Shapes are those of `models.slots`.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from ratchet.models import slots
from ratchet.models.beginnings import lengths, split
from ratchet.models.draw import Warp
from ratchet.models.grammar import Grammar, Guides
from ratchet.models.inference import Weights
from ratchet.models.programs import compiled
from ratchet.models.slots import MOST_STEPS, Plan


@dataclass(frozen=True)
class Request:
    """A prompt to continue. `id` seeds its randomness and must be unique within a call's seed. What is said keeps to
    the `grammar`, if there is one; its end must be a stop id."""

    id: int
    prompt: tuple[int, ...]
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Sampled:
    """What was sampled, without the stop token; `finished` is False when the length limit cut it off.

    tokens: int32 [N]; stop: the stop token, 0 when not finished; ids, probs: [N+1, K] when finished (the stop token's
    own position included), else [N, K]; tail: the mass outside the kept ids. Distributions are taken before
    temperature, cuts and grammar.
    """

    tokens: np.ndarray
    finished: bool
    stop: int
    ids: np.ndarray
    probs: np.ndarray
    tail: np.ndarray

    @property
    def log_likelihoods(self) -> np.ndarray:
        """The log-probability, in nats [N], of each token that was said, before temperature, cuts and grammar."""
        own_NK = self.ids[: len(self.tokens)] == self.tokens[:, None]
        return np.log(np.sum(self.probs[: len(self.tokens)], axis=1, where=own_NK))


@dataclass
class Meter:
    """What the sampler has done: dispatches of decoding, their steps, and slots that worked in them, summed up."""

    dispatches: int = 0
    steps: int = 0
    working: int = 0
    slots: int = 0

    def count(self, steps: int, working: int, slots: int) -> None:
        """Adds a dispatch of so many steps, in which slots worked so many times, of `slots` in each."""
        self.dispatches += steps > 0
        self.steps += steps
        self.working += working
        self.slots += steps * slots

    @property
    def busy(self) -> float:
        """Share of slots that worked, weighted by steps."""
        return self.working / max(self.slots, 1)


PACED = 8
"""Steps of a dispatch that is timed."""


@dataclass(frozen=True)
class Pace:
    """Seconds that a machine takes: until a sampler's programs are compiled, for a token of a prompt that is read, and
    for a step in which every slot says a token."""

    compiling: float
    token: float
    step: float


@dataclass(frozen=True)
class Sampler(Plan):
    """Samples any number of requests, longest prompts first."""

    meter: Meter = field(default_factory=Meter, compare=False)

    def __call__(
        self, params: nnx.State, requests: Sequence[Request], *, seed: int, temperature: float, stop: tuple[int, ...],
        top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, advance: Callable[[int], None] = lambda done: None,
    ) -> list[Sampled]:
        """Continues every request, in the order given. `advance(n)` is called when n more requests have finished.

        Temperature 0 is greedy. Sampling ends at any id of `stop`. The cuts are those of `models.draw.Warp`. With
        grammars, a dispatch is one step long: better ask for those requests by themselves.
        """
        if not requests:
            return []
        warp = Warp(temperature, top_k, top_p, min_p)
        model, prompts = nnx.merge(self.graphdef, params).config, [request.prompt for request in requests]
        rough = lengths(prompts, self.bucket, self.reads_apart(model))
        waiting = sorted(range(len(requests)), key=lambda i: (-rough[i], prompts[i], i))
        columns, weights = self.columns(model, max(map(len, prompts))), self.weights(params)
        settings = settings_of(stop, [seed], [warp], [self.new_tokens])
        given: list[slots.Steps] = []
        guides = Guides([r.grammar for r in requests], model.vocab_size)
        state, done, starved = slots.empty(weights, columns, guides.words, self), 0, False
        places_Q, taken_M, working_M = np.full(self.slots, -1), *np.zeros((2, self.parts), int)
        while done < len(requests):
            left = self.left(places_Q, taken_M)
            if waiting and (not left or starved):
                waiting = left + waiting
                queue, places_Q = None, self.places(waiting[: self.slots])  # its cache makes room for the next one's
                waiting = waiting[self.slots :]
                taken_M = np.zeros(self.parts, int)
                queue = self.read(weights, requests, places_Q, columns, apart=self.reads_apart(model))
                queue = queue._replace(allowed_QW=guides.first(places_Q))
                guides.check()
                state = slots.anew(state)
            # While slots have room for all of the queue and more wait, the next queue is read before a step is made.
            seats_only = waiting and np.all(working_M + self._count(places_Q) - taken_M <= self.slots // self.parts)
            most = 0 if seats_only else 1 if guides.words else MOST_STEPS
            state, progress, out = slots.dispatch(
                weights, state, queue, settings, jnp.int32(most), jnp.bool_(bool(waiting)), cuts=warp.cuts, plan=self
            )
            (steps, taken_M, working_M, index_B), said = jax.device_get((progress, out))
            starved = slots.starved(working_M, self._count(places_Q) - taken_M, self)
            ended = len(requests) - len(waiting) - len(self.left(places_Q, taken_M)) - int(working_M.sum())
            advance(ended - done)
            done = ended
            if guides.words:
                still_B, next_BW = guides.after(said.index_CB[0], said.token_CB[0], index_B)
                guides.check()
                state = state._replace(allowed_BW=slots.allow(state.allowed_BW, still_B, next_BW, plan=self))
            self.meter.count(int(steps), int(np.sum(said.index_CB >= 0)), self.slots)
            given.append(said)
        return _by_request(given, len(requests), stop)

    def pace(self, params: nnx.State, prompt: tuple[int, ...], stop: tuple[int, ...]) -> Pace:
        """How fast the sampler is on this machine: all slots read one prompt and say a few tokens of it, twice, since
        the first time compiles."""
        weights, columns = self.weights(params), self.columns(nnx.merge(self.graphdef, params).config, len(prompt))
        settings = settings_of(stop, [0], [Warp()], [self.new_tokens])
        requests, places_Q, took = [Request(n, prompt) for n in range(self.slots)], np.arange(self.slots), []
        for _ in range(2):
            began = time.monotonic()
            queue = jax.block_until_ready(self.read(weights, requests, places_Q, columns))
            read = time.monotonic()
            state = slots.empty(weights, columns, 0, self)
            most, more = jnp.int32(PACED), jnp.bool_(False)
            _, progress, _ = slots.dispatch(weights, state, queue, settings, most, more, cuts=False, plan=self)
            steps = int(jax.device_get(progress.steps))
            took.append((read - began, time.monotonic() - read, steps))
        (reading, saying, steps), first = took[1], sum(took[0][:2])
        tokens = self.distinct * self.width(len(prompt), columns)
        return Pace(max(first - reading - saying, 0.0), reading / tokens, saying / max(steps, 1))

    def places(self, indices: Sequence[int]) -> np.ndarray:
        """The request at each place of a queue, dealt out to its parts in turn; -1: none."""
        places_MQ = np.full((self.parts, self.slots // self.parts), -1)
        for number, index in enumerate(indices):
            places_MQ[number % self.parts, number // self.parts] = index
        return places_MQ.reshape(-1)

    def _count(self, places_Q: np.ndarray) -> np.ndarray:
        """The requests in a queue, by part [M]."""
        return np.sum(places_Q.reshape(self.parts, -1) >= 0, axis=1)

    def left(self, places_Q: np.ndarray, taken_M: np.ndarray) -> list[int]:
        """The indices of the requests that have not been taken of a queue."""
        parts = zip(places_Q.reshape(self.parts, -1), taken_M, self._count(places_Q), strict=True)
        return [int(index) for places, taken, count in parts for index in places[taken:count]]

    def read(
        self, weights: Weights, requests: Sequence[Request] | Mapping[int, Request], places_Q: np.ndarray, columns: int,
        apart: bool = False,
    ) -> slots.Queue:
        """A queue of the requests whose indices stand at its places. Few prompts are read once each, in few rows, and
        `apart` reads once what prompts begin with alike. What answers may begin with is left open."""
        asked = {place: requests[index] for place, index in enumerate(places_Q) if index >= 0}
        distinct = sorted({r.prompt for r in asked.values()}, key=len, reverse=True)
        width = self.width(len(distinct[0]), columns)
        if len(distinct) > self.distinct:  # each where its slot will be
            prompts, prompt_Q = [asked[q].prompt if q in asked else None for q in range(self.slots)], None
        else:
            prompts, row = distinct, {prompt: i for i, prompt in enumerate(distinct)}
            prompt_Q = np.array([row[asked[q].prompt] if q in asked else 0 for q in range(self.slots)], np.int32)
        (both,) = split([prompts], self.slots if prompt_Q is None else self.distinct, width, self.bucket, apart)
        id_Q = np.array([asked[q].id & 0xFFFFFFFF if q in asked else 0 for q in range(self.slots)], np.uint32)
        read = slots.prefill(weights, both, prompt_Q, columns=columns, plan=self)
        shares = self.shares(nnx.merge(self.graphdef, weights.params).config, columns)
        prints = (_fingerprint(asked[q].prompt if q in asked else ()) for q in range(self.slots))
        requested = places_Q.astype(np.int32), id_Q, None, np.stack([*prints]) if shares else None
        return slots.Queue(*read, *requested, self._count(places_Q).astype(np.int32))

    def compile(self, weights: Weights, columns: int, words: int, cuts: bool = False) -> None:
        """Compiles what samples after prompts of so many columns, with so many words of allowed ids and a warp that
        `cuts` or does not, and runs nothing. Of the weights, shapes with their layout are enough."""
        state = compiled(slots.empty, weights, columns, words, self)
        whole_Q, id_Q = np.zeros(self.slots, np.int32), np.zeros(self.slots, np.uint32)
        for rows, prompt_Q in ((self.distinct, whole_Q), (self.slots, None)):  # as `read` has it
            (prompts,) = split([[]], rows, columns, self.bucket, apart=False)
            read = compiled(slots.prefill, weights, prompts, prompt_Q, columns=columns, plan=self)
        allowed_QW = np.zeros((self.slots, words), np.int32) if words else None
        print_QF = None if state.print_BF is None else np.zeros(state.print_BF.shape, np.uint32)
        queue = slots.Queue(*read, whole_Q, id_Q, allowed_QW, print_QF, np.zeros(self.parts, np.int32))
        settings = jax.eval_shape(lambda: settings_of((), [0], [Warp()], [self.new_tokens]))
        flags = np.int32(0), np.bool_(False)
        compiled(slots.dispatch, weights, state, queue, settings, *flags, cuts=cuts, plan=self)
        if words:
            compiled(slots.allow, state.allowed_BW, np.zeros(self.slots, bool), allowed_QW, plan=self)

    def lowered(self, params: nnx.State, columns: int) -> tuple[jax.stages.Lowered, list, slots.Cache]:
        """A dispatch with prompts of `columns` tokens on a mesh, for shapes of parameters with their layout; with the
        shapes of what a step reads: weights and caches."""
        whole = NamedSharding(self.rows.mesh, PartitionSpec())
        over = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.place(x)), tree)
        number = lambda kind, *shape: jax.ShapeDtypeStruct(shape, kind, sharding=whole)
        weights = self.shapes(params)
        state = over(jax.eval_shape(lambda w: slots.empty(w, columns, 0, self), weights))
        whole_SP = split([[]], self.slots, columns, self.bucket, apart=False)[0]
        prompts = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), whole_SP)
        read = over(slots.prefill.shapes(weights, prompts, None, columns=columns, plan=self))
        queue = slots.Queue(*read, state.index_B, state.id_B, state.allowed_BW, state.print_BF, state.taken_M)
        warp = Warp(*(number(kind, 1) for kind in (jnp.float32, jnp.int32, jnp.float32, jnp.float32)))
        settings = slots.Settings(number(jnp.int32, 2), number(jnp.uint32, 1), warp, number(jnp.int32, 1))
        flags = number(jnp.int32), number(bool)
        lowered = slots.dispatch.lower(weights, state, queue, settings, *flags, cuts=False, plan=self)
        return lowered, weights.read, state.cache


def _fingerprint(prompt: Sequence[int]) -> np.ndarray:
    """A prompt in a few words [F]."""
    digest = hashlib.sha256(np.array(prompt, np.int32).tobytes()).digest()
    return np.frombuffer(digest[: 4 * slots.WORDS], np.uint32)


def settings_of(
    stop: Sequence[int], seeds: Sequence[int], warps: Sequence[Warp], longest: Sequence[int]
) -> slots.Settings:
    """Settings for requests: one of each for all of them, or one of each by a request's index. At least three
    stop ids stand there, so that a program serves fewer as well; no token has the id -1."""
    kinds = Warp(np.float32, np.int32, np.float32, np.float32)
    warp_R = Warp(*(jnp.array(of_R, kind) for of_R, kind in zip(zip(*warps, strict=True), kinds, strict=True)))
    ids = jnp.array((*stop, -1, -1, -1)[: max(3, len(stop))], jnp.int32)
    seeds_R = jnp.array([seed % 2**32 for seed in seeds], jnp.uint32)
    return slots.Settings(ids, seeds_R, warp_R, jnp.array(longest, jnp.int32))


def _by_request(given: Sequence[slots.Steps], count: int, stop: tuple[int, ...]) -> list[Sampled]:
    """What all dispatches gave, by request and in order."""
    flat = lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
    steps = jax.tree.map(lambda *arrays: np.concatenate([flat(a) for a in arrays]), *given)
    kept = np.flatnonzero(steps.index_CB >= 0)
    kept = kept[np.argsort(steps.index_CB[kept], kind="stable")]
    index, tokens, (ids, probs, tail) = (jax.tree.map(lambda a: a[kept], part) for part in steps)
    bounds = np.searchsorted(index, np.arange(count + 1))
    made = []
    for start, end in zip(bounds, bounds[1:], strict=False):
        finished = bool(tokens[end - 1] in stop)
        said = tokens[start : end - finished]
        last = int(tokens[end - 1]) if finished else 0
        made.append(Sampled(said, finished, last, ids[start:end], probs[start:end], tail[start:end]))
    return made

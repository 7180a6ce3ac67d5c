"""Sampling that requests join while it goes on, as a server needs it: each with its own seed, warp and length.

A `Sampler` answers requests that are all known before it begins. A round is the same slots for requests that come one
after the other. What a request says depends on its id, seed and warp alone, and is what the sampler would say.

Shapes: N tokens of a request, K kept ids; those of `models.slots`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.models import slots
from ratchet.models.draw import Captured, Warp
from ratchet.models.grammar import Guides
from ratchet.models.inference import Weights
from ratchet.models.sampler import Request, Sampler, settings_of

STEPS = 8
"""Steps of a dispatch: a request waits for so many at most until it is taken, and what it says comes in such parts."""
NARROW = 64
"""Prompts, and what is said, get so many columns or a power of two times as many, since every number of columns is
compiled for."""


@dataclass(frozen=True)
class Asked:
    """A request with what it is sampled by: the `seed` of its randomness, its `warp`, and how many tokens it may say
    (`longest`)."""

    request: Request
    seed: int
    longest: int
    warp: Warp = field(default_factory=Warp)


class Part(NamedTuple):
    """What a request said in a dispatch: tokens [N], a stop id that ended it included, with what they were drawn from,
    and whether it has ended."""

    tokens: np.ndarray
    captured: Captured
    ended: bool


class Round:
    """Slots for requests that fit the first ones: as long a prompt, as many new tokens, a grammar if they have one.

    `sampler` says how many slots there are and what is kept; `stop` are the ids that end what is said.
    """

    def __init__(self, sampler: Sampler, weights: Weights, stop: Sequence[int], first: Sequence[Asked]):
        model = nnx.merge(sampler.graphdef, weights.params).config
        new_tokens = min(_size(max(a.longest for a in first)), model.max_length)
        self._plan, self._weights, self._stop = replace(sampler, new_tokens=new_tokens), weights, stop
        longest = min(_size(max(len(a.request.prompt) for a in first)), model.max_length)
        self._columns = self._plan.columns(model, longest)
        self._guided = first[0].request.grammar is not None
        self._asked: dict[int, Asked] = {}
        self._gone: set[int] = set()
        self._waiting: list[int] = []
        self._places_Q, self._taken_M = np.full(sampler.slots, -1), np.zeros(sampler.parts, int)
        self._index_B = np.full(sampler.slots, -1)
        grammars = [first[0].request.grammar] * sampler.slots
        self._grammars, self._guides = grammars, Guides(grammars, model.vocab_size)
        self._state = slots.empty(weights, self._columns, self._guides.words, self._plan)
        self._queue: slots.Queue | None = None

    @property
    def free(self) -> int:
        """How many more requests may join."""
        return self._plan.slots - len(self._asked)

    def fits(self, asked: Asked) -> bool:
        """Whether a request may join, when there is a place for it."""
        guided = asked.request.grammar is not None
        fits = len(asked.request.prompt) <= self._columns and asked.longest <= self._plan.new_tokens
        return fits and guided == self._guided

    def join(self, asked: Asked) -> int:
        """Takes a request that fits; returns its number in this round, which another may have when it has ended."""
        assert self.free and self.fits(asked)
        number = next(n for n in range(self._plan.slots) if n not in self._asked)
        self._asked[number], self._grammars[number] = asked, asked.request.grammar
        self._waiting.append(number)
        return number

    def leave(self, number: int) -> None:
        """Gives a request up; nothing more is heard of it."""
        self._gone.add(number)

    def lost(self) -> dict[int, str]:
        """The requests that are given up, by number, because their grammar was lost, and why; asked after a step."""
        found, self._guides.lost = self._guides.lost, {}
        for number in found.keys() & self._asked.keys():
            self.leave(number)
        return found

    def step(self) -> dict[int, Part]:
        """Decodes for a few steps; returns what each request said, by its number."""
        if self._gone:
            self._give_up()
        if self._waiting or self._queue is None:
            self._read()
        settings = settings_of(self._stop, *zip(*map(self._settings, range(self._plan.slots)), strict=True))
        cuts = any(a.warp.cuts for a in self._asked.values())
        self._state, progress, out = slots.dispatch(
            self._weights, self._state, self._queue, settings, jnp.int32(1 if self._guided else STEPS),
            jnp.bool_(False), cuts=cuts, plan=self._plan,
        )  # fmt: skip
        (_, self._taken_M, _, index_B), out = jax.device_get((progress, out))
        self._index_B = index_B
        if self._guided:
            still_B, next_BW = self._guides.after(out.index_CB[0], out.token_CB[0], index_B)
            allowed_BW = slots.allow(self._state.allowed_BW, still_B, next_BW, plan=self._plan)
            self._state = self._state._replace(allowed_BW=allowed_BW)
        busy = {*index_B.tolist(), *self._plan.left(self._places_Q, self._taken_M)}
        return dict(self._parts(out, busy))

    def _parts(self, out: slots.Steps, busy: set[int]) -> list[tuple[int, Part]]:
        """What each request said that was not given up; those that are not `busy` any more have ended and give their
        numbers back."""
        found = []
        for number in list(self._asked):
            if number not in self._gone:
                step_N, slot_N = np.nonzero(out.index_CB == number)
                captured = jax.tree.map(lambda x, at=(step_N, slot_N): x[at], out.captured_CB)
                found.append((number, Part(out.token_CB[step_N, slot_N], captured, number not in busy)))
            if number not in busy:
                del self._asked[number]
                self._gone.discard(number)
        return found

    def _settings(self, number: int) -> tuple[int, Warp, int]:
        asked = self._asked.get(number)
        return (asked.seed, asked.warp, asked.longest) if asked else (0, Warp(), 1)

    def _give_up(self) -> None:
        """Frees the slots of requests that were given up, and forgets those that wait to be read."""
        for number in self._gone & {*self._waiting}:
            self._waiting.remove(number)
            del self._asked[number]
        gone_G = np.full(self._plan.slots, -1, np.int32)
        gone_G[: len(self._gone)] = sorted(self._gone)
        self._state = self._state._replace(index_B=slots.leave(self._state.index_B, gone_G, plan=self._plan))
        self._index_B = np.where(np.isin(self._index_B, gone_G), -1, self._index_B)
        queued = self._plan.left(self._places_Q, self._taken_M)
        for number in self._gone & self._asked.keys() - {*queued}:
            del self._asked[number]
        self._gone &= self._asked.keys()

    def _read(self) -> None:
        """Reads the prompts of those that wait, after what is still queued."""
        numbers = [*self._plan.left(self._places_Q, self._taken_M), *self._waiting]
        self._waiting, self._places_Q = [], self._places(numbers)
        self._taken_M = np.zeros(self._plan.parts, int)
        requests = {number: asked.request for number, asked in self._asked.items()}
        queue = self._plan.read(self._weights, requests, self._places_Q, self._columns)
        self._queue = queue._replace(allowed_QW=self._guides.first(self._places_Q))
        self._state = slots.anew(self._state)

    def _places(self, numbers: Sequence[int]) -> np.ndarray:
        """The request at each place of a queue [Q]; -1: none. Each goes to the part with most free slots, so that none
        waits for a device while another is idle."""
        free_MQ = self._index_B.reshape(self._plan.parts, -1) < 0
        free_M, places_MQ = np.sum(free_MQ, axis=1), np.full(free_MQ.shape, -1)
        for number in numbers:
            part = int(np.argmax(free_M))
            places_MQ[part, np.sum(places_MQ[part] >= 0)] = number
            free_M[part] -= 1
        return places_MQ.reshape(-1)


def _size(tokens: int) -> int:
    """Columns for so many tokens."""
    return max(NARROW, 1 << (tokens - 1).bit_length())

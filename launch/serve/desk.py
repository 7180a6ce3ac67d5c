"""The one thread that runs the model. Requests of all clients come to it, and it batches them.

Texts to score wait for each other while a batch runs. Requests to go on join the `Round` that is under way as its slots
free; one that does not fit it (a longer prompt, more tokens, a grammar) waits for the next, and none overtakes it.
Other weights wait until the round has ended: no answer is begun by one model and ended by another.
"""

import asyncio
import queue
import threading
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ratchet.launch.serve.asked import Refused
from ratchet.launch.serve.served import Served
from ratchet.models.draw import Logs
from ratchet.models.inference import Weights
from ratchet.models.rounds import Asked, Part, Round

MOST_WAITING = 4096
"""Requests that wait; more are told to come back."""


@dataclass(eq=False)
class Turn:
    """An answer, which may take several requests: all are answered by one `version` of the weights, or refused."""

    version: int | None = None


@dataclass(eq=False)
class _Work:
    """A text to score, a request to go on with or weights to take, and where what is found goes."""

    of: tuple[int, ...] | Asked | Weights
    loop: asyncio.AbstractEventLoop
    turn: Turn
    found: asyncio.Queue = field(default_factory=asyncio.Queue)
    given_up: bool = False

    def tell(self, found: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(self.found.put_nowait, found)
        except RuntimeError:  # the server's loop has ended, and nobody listens any more
            self.given_up = True


class Desk:
    """Runs a served model in a thread of its own, from `with` on until its end."""

    def __init__(self, served: Served):
        self.served = served
        """The model, with the weights that it has now."""
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._texts: deque[_Work] = deque()
        self._requests: deque[_Work] = deque()
        self._changes: deque[_Work] = deque()
        self._round: Round | None = None
        self._seated: dict[int, _Work] = {}
        self._version = 0
        self._open = True
        self._thread = threading.Thread(target=self._run, name="desk", daemon=True)

    def __enter__(self) -> "Desk":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._inbox.put(None)
        self._thread.join()

    async def logs(self, text: tuple[int, ...]) -> Logs:
        """The distributions after each token of a text, as `Scorer.logs` gives them. Whoever stops listening gives the
        text up."""
        work = self._put(text)
        try:
            return _or_raise(await work.found.get())
        finally:
            work.given_up = True

    async def say(self, asked: Asked, turn: Turn | None = None) -> AsyncIterator[Part]:
        """What a request says, part by part. Whoever stops listening gives the request up. Requests of one `turn` are
        answered by the same weights; raises Refused where these are gone."""
        work = self._put(asked, turn)
        try:
            while True:
                part = _or_raise(await work.found.get())
                yield part
                if part.ended:
                    return
        finally:
            work.given_up = True

    async def change(self, weights: Weights) -> None:
        """Has every request that is seated from now on answered by other weights of the model."""
        _or_raise(await self._put(weights).found.get())

    def _put(self, of: tuple[int, ...] | Asked | Weights, turn: Turn | None = None) -> _Work:
        if self._inbox.qsize() + len(self._texts) + len(self._requests) >= MOST_WAITING:
            raise Refused("the server has too much to do; try again later", code="overloaded", status=503)
        work = _Work(of, asyncio.get_running_loop(), turn or Turn())
        self._inbox.put(work)
        return work

    def _run(self) -> None:
        while self._open:
            self._take()
            if self._texts:
                self._attempt(self._score, self._texts)
            if not self._changes:
                self._attempt(self._seat, self._requests)
            elif not self._seated:
                self._attempt(self._change, self._changes)
            if self._seated:
                self._attempt(self._step)

    def _attempt(self, part: Callable[[], None], waiting: deque[_Work] | None = None) -> None:
        """Does a part of the work. Where it goes wrong, those who wait for it are told, and the others answered: whom a
        round answers are told when it is that which went wrong, and it is thrown away."""
        try:
            part()
        except Exception as error:  # whatever it was, the next are answered
            traceback.clear_frames(error.__traceback__)  # which hold the round, whose memory the next one needs
            told = list(waiting or ())
            if waiting is not self._texts:
                told += self._seated.values()
                self._seated, self._round = {}, None
            for work in told:
                work.tell(error)
            if waiting:
                waiting.clear()

    def _take(self) -> None:
        """Takes what has come in; waits for something where there is nothing to do."""
        idle = not (self._texts or self._requests or self._changes or self._seated)
        while idle or not self._inbox.empty():
            work = self._inbox.get()
            idle = False
            if work is None:
                self._open = False
            else:
                kinds = {Asked: self._requests, Weights: self._changes}
                kinds.get(type(work.of), self._texts).append(work)

    def _score(self) -> None:
        scorer = self.served.scorer
        _leave(self._texts, [work for work in self._texts if not work.given_up])
        if not self._texts:
            return
        batch = [self._texts[n] for n in range(min(scorer.questions, len(self._texts)))]
        found = scorer.logs(self.served.weights, [work.of for work in batch], self.served.sampler.keep)
        for work, one in zip(batch, found, strict=True):
            self._texts.popleft()
            work.tell(one)

    def _change(self) -> None:
        """Takes the weights that were given last; those before them, and the old ones, are let go of."""
        self._round = None
        self.served, self._version = replace(self.served, weights=self._changes[-1].of), self._version + 1
        while self._changes:
            self._changes.popleft().tell(None)

    def _seat(self) -> None:
        """Gives free slots to those that wait, in their order."""
        _leave(self._requests, [work for work in self._requests if not (work.given_up or self._too_late(work))])
        if self._requests and not self._seated:
            first = [work.of for work in list(self._requests)[: self.served.sampler.slots]]
            alike = [a for a in first if (a.request.grammar is None) == (first[0].request.grammar is None)]
            self._round = None  # two of them need not fit into memory
            self._round = Round(self.served.sampler, self.served.weights, self.served.ends, alike)
        while self._requests and self._round.free and self._round.fits(self._requests[0].of):
            work = self._requests[0]
            work.turn.version = self._version
            self._seated[self._round.join(work.of)] = work
            self._requests.popleft()

    def _too_late(self, work: _Work) -> bool:
        """Whether other weights began what a request goes on with, of which it is then told."""
        late = work.turn.version not in (None, self._version)
        if late:
            work.tell(Refused("the model's weights were changed within this answer; ask again", status=503))
        return late

    def _step(self) -> None:
        for number, work in list(self._seated.items()):
            if work.given_up:
                self._round.leave(number)
                del self._seated[number]
        parts = self._round.step()
        for number, why in self._round.lost().items():
            parts.pop(number, None)
            if work := self._seated.pop(number, None):
                work.tell(Refused(f"response_format or tools: {why}"))
        for number, part in parts.items():
            work = self._seated[number]
            if part.ended:
                del self._seated[number]
            if len(part.tokens) or part.ended:
                work.tell(part)


def _leave(waiting: deque[_Work], wanted: Sequence[_Work]) -> None:
    """Leaves in a queue those alone that are still wanted."""
    waiting.clear()
    waiting.extend(wanted)


def _or_raise(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found

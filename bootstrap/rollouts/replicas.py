"""Questions shared out among servers that hold the same weights."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from etils import epath

from ratchet.bootstrap.rollouts.handover import Away, Handover, NotReady
from ratchet.bootstrap.rollouts.settings import Replica, RolloutsConfig
from ratchet.bootstrap.teacher.client import Body, Client, Failed, ServerRefused, ServerStopped, Unaskable
from ratchet.bootstrap.teacher.kept import all_kept, keep
from ratchet.bootstrap.worlds.world import content_id

AT_A_TIME = 64
"""Questions that a server answers between two looks at its weights, at most."""
PATIENCE, LOOK = 600.0, 10.0
"""Seconds that a run waits for a server to come back where none is left, and between two looks."""
Said = tuple[list[int], bool]
"""Tokens, and whether the turn ended by itself."""


@dataclass(frozen=True, eq=False)
class Replicas:
    """Servers, the weights that each must have, and where what they answered by them is kept. `say` hears in a line
    of a server that is left out."""

    clients: Sequence[Client]
    handover: Handover
    kept: epath.Path
    say: Callable[[str], None]

    def answers(self, bodies: Sequence[Body], advance: Callable[[int], None]) -> list[Said]:
        """What the servers say to prompts, in order; nothing to one that they refuse. `advance(n)` is called when n
        more are there.

        Each takes the next questions as it is done with the last. Its answers count once it was seen to have the
        weights before and after them; else others are asked, and it is left out until this is called again. Where
        none is left, those that only did not answer are waited for. Raises ServerStopped when none comes back, or none
        answers anything after that, RecordError when a kept answer is damaged.
        """
        names = [content_id(body) for body in bodies]
        place = self.kept / content_id(names)
        known = dict.fromkeys(names) | _read(place)
        work = _Work(known, dict(zip(names, bodies, strict=True)), place, len(self.clients))
        advance(sum(said is not None for said in known.values()))
        able, left = list(self.clients), len(names) + 1  # `left` when servers were last waited for
        pool = ThreadPoolExecutor(max(len(able), 1))
        try:
            while work.left and (able or len(work.left) < left):
                if not able:
                    able, left = self._back(work), len(work.left)
                    continue
                doing = [pool.submit(self._work, client, work, advance) for client in able]
                able = [client for client, one in zip(able, doing, strict=True) if one.result()]
        finally:
            work.over.set()
            for client in self.clients:
                client.stop()
            pool.shutdown(cancel_futures=True)
        if work.left:
            raise ServerStopped(
                "rollouts: no server is left that answers by the run's weights; what was answered is kept; see to "
                "them, then `ratchet resume` goes on", again=True,
            )  # fmt: skip
        return [work.found[name] for name in names]

    def _back(self, work: "_Work") -> list[Client]:
        """The servers that answer again of those that were away, as soon as there are any; none after PATIENCE."""
        away, work.away = work.away, []
        until = time.monotonic() + PATIENCE
        if away:
            self.say(f"rollouts: no server is left; waiting up to {PATIENCE / 60:.0f} min for one to come back")
        while away and time.monotonic() < until:
            if back := [client for client in away if _answers(client)]:
                return back
            time.sleep(LOOK)
        return []

    def _work(self, client: Client, work: "_Work", advance: Callable[[int], None]) -> bool:
        """Has one server answer until nothing is left; returns whether it may be asked again."""
        some: list[str] = []
        try:
            named = self.handover.give(client) if work.left else client
            while (some := work.take()) and not work.over.is_set():
                asked = [{"model": named.model, **work.bodies[name]} for name in some]
                said = named.answers(asked, lambda done: None, _said)
                if why := self.handover.strange(named):
                    raise NotReady(why)
                work.keep(dict(zip(some, said, strict=True)), client.config.url, advance)
        except (NotReady, ServerStopped, ServerRefused) as error:
            work.give_back(some)
            if isinstance(error, (Away, ServerStopped)):
                work.away.append(client)
            if not work.over.is_set():
                why = error.reason if isinstance(error, ServerStopped) else error
                self.say(f"rollouts: {client.config.url} is left out for now: {why}")
            return False
        work.give_back(some)
        return True


@dataclass(eq=False)
class _Work:
    """Questions by name for so many servers, what is found of each so far, which are left, the place where answers are
    kept, and the servers that did not answer since others were last waited for."""

    found: dict[str, Said | None]
    bodies: Mapping[str, Body]
    place: epath.Path
    servers: int
    left: deque[str] = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)
    away: list[Client] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        self.left = deque(name for name, said in self.found.items() if said is None)
        self._most = min(AT_A_TIME, -(-len(self.left) // self.servers))

    def take(self) -> list[str]:
        """The next questions, for one server."""
        with self._lock:
            return [self.left.popleft() for _ in range(min(self._most, len(self.left)))]

    def give_back(self, names: Sequence[str]) -> None:
        """Questions that are still to be answered come first again."""
        with self._lock:
            self.left.extendleft(reversed([name for name in names if self.found[name] is None]))

    def keep(self, said: Mapping[str, Said | None], by: str, advance: Callable[[int], None]) -> None:
        """Answers of one server, and None to what it refuses."""
        made = {name: one or ([], False) for name, one in said.items()}
        keep(self.place, list(made), {"by": by, "answers": made})
        with self._lock:
            self.found |= made
            advance(len(made))


def _read(place: epath.Path) -> dict[str, Said]:
    """What is kept at a place, by name. Raises RecordError where it is damaged."""
    return {name: tuple(said) for one in all_kept(place) for name, said in one["answers"].items()}


def _answers(client: Client) -> bool:
    """Whether a server lists its models."""
    try:
        client.ask("models")
    except (Failed, Unaskable, ServerRefused):
        return False
    return True


def servers(config: RolloutsConfig) -> list[Client]:
    """A client of each server; none of them keeps answers, or knows its model's name yet."""
    asked = [Replica(url, concurrency=config.concurrency) for url in config.url]
    return [Client(one, "", None, "completions") for one in asked]


def find_server(config: RolloutsConfig) -> None:
    """Raises ServerRefused unless one of the servers, at least, is there."""
    said = []
    for client in servers(config):
        try:
            client.ask("models")
            return
        except (Failed, Unaskable, ServerRefused) as error:
            said.append(f"{client.config.url}: {error}")
    raise ServerRefused(f"rollouts: no server answers ({'; '.join(said)}); start them, or see to --rollouts.url")


def _said(answer: Any) -> Said:
    """The tokens of a completion. Raises Failed for what is no answer."""
    try:
        first = answer["choices"][0]
        return [int(token) for token in first["token_ids"]], first["finish_reason"] == "stop"
    except (LookupError, TypeError, ValueError):
        raise Failed("no token ids") from None

"""Questions to a server that speaks OpenAI's web API, and its answers.

Every answer is kept in a file of the run, by the content of its question: none is paid for twice, whatever happens.
"""

import contextlib
import email.utils
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from etils import epath

from ratchet.bootstrap.teacher.connection import Connection
from ratchet.bootstrap.teacher.kept import all_kept, keep, kept, place_of
from ratchet.bootstrap.teacher.pace import Pace
from ratchet.bootstrap.teacher.settings import ServerConfig
from ratchet.bootstrap.worlds.world import content_id
from ratchet.models.extras import installing
from ratchet.train.stopping import AGAIN, Ends

ATTEMPTS = 6
PATIENCE = 300.0
"""Seconds that a server may be silent before a question is asked again: answers come whole, and slow servers take
minutes for some that wait behind others."""
FIRST = 8
"""Questions of which all are refused, and then no more are asked."""
LONGEST = 600.0
"""Seconds that an answer may take in all, however often a part of it comes."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts at most, whatever the server asks for."""
UNREAD = "unread"
"""The folder of answers that were paid for and could not be read, in that of the others."""
_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
_BUSY = (429, 503)
_NO_ENTRY = {401: "the key is wrong or has expired", 403: "the key does not allow it", 402: "the account is empty"}
_UNASKABLE = (400, 413, 422)
Body = Mapping[str, Any]


class ServerStopped(Ends):
    """A server does not go on; what it has answered is kept, and the run can be resumed. `reason` is the part of the
    line that says why; the run is to be started `again` where the server may come back by itself."""

    def __init__(self, line: str, reason: str = "", again: bool = False):
        super().__init__(line)
        self.reason, self.status = reason or line, AGAIN if again else self.status


class ServerRefused(ValueError):
    """The user has to mend something before a server can answer: address, model or key."""


class Unaskable(Exception):
    """The server takes this question at no time, such as one that is too long for it."""


class Unread(Exception):
    """A question has been answered time after time, and never by what can be read."""


class Failed(Exception):
    """An attempt that may do better another time: why, and how long the server says to wait, in seconds. `unheard`
    says that there was no answer to be read."""

    def __init__(self, reason: str, wait: float | None = None, busy: bool = False, unheard: bool = False):
        super().__init__(reason)
        self.reason, self.wait, self.busy, self.unheard = reason, wait, busy, unheard


def checked(answer: Any) -> tuple[str, bool]:
    """What a chat's answer says, and whether it ended by itself. Raises Failed for what is no answer."""
    try:
        first = answer["choices"][0]
        message, ended = first["message"], first["finish_reason"] == "stop"
        text = (message.get("content") if message.get("tool_calls") else message["content"]) or ""
        _tokens(answer)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Failed("malformed answer") from None
    if not isinstance(text, str):
        raise Failed("malformed answer")
    return text.encode("utf-8", "replace").decode(), ended  # half a character is none


def _tokens(answer: Mapping[str, Any]) -> int:
    """Tokens that an answer says it took; 0 where it says nothing."""
    return _used(answer, "total_tokens")


def _tokens_of_any(answer: Any) -> int:
    """Tokens that an answer says it took, whatever it is; 0 where that cannot be read."""
    try:
        return _tokens(answer)
    except (LookupError, TypeError, ValueError, AttributeError):
        return 0


def _used(answer: Mapping[str, Any], kind: str) -> int:
    return int((answer.get("usage") or {}).get(kind) or 0)


@dataclass
class Counts:
    """What was asked. `again` counts repeated attempts by their reason; tokens, and what they cost by the prices that
    were given, are those of new answers."""

    answered: int = 0
    kept: int = 0
    unaskable: int = 0
    tokens: int = 0
    cost: float = 0.0
    again: Counter[str] = field(default_factory=Counter)

    unread: int = 0
    """Questions whose answers could not be read, however often they were asked."""

    def __str__(self) -> str:
        again = ", ".join(f"{reason} {count}" for reason, count in sorted(self.again.items()))
        parts = [f"{self.answered:,} answers", f"{self.kept:,} more had been kept", f"{self.tokens:,} tokens"]
        parts += [f"which cost {self.cost:.4g}"] if self.cost else []
        parts += [f"{self.unaskable:,} questions were refused"] if self.unaskable else []
        parts += [f"{self.unread:,} were answered by nothing that can be read"] if self.unread else []
        return ", ".join([*parts, f"asked again: {again}"] if again else parts)


@dataclass(frozen=True, eq=False)
class Client:
    """A server and where its answers are kept; without a folder nobody keeps them. Questions go to `path` below its
    address. `patience` is PATIENCE, `longest` LONGEST, and `pause` the first wait between attempts, in seconds; all
    are shorter in tests alone."""

    config: ServerConfig
    model: str
    folder: epath.Path | None
    path: str = "chat/completions"
    patience: float = PATIENCE
    longest: float = LONGEST
    pause: float = 1.0
    counts: Counts = field(default_factory=Counts)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    @property
    def who(self) -> str:
        """What the server is to the run: its teacher, or its judge."""
        return self.config.section

    @property
    def key(self) -> str:
        """The environment variable that holds the key. Nothing else does: it is in no file of a run and in no
        message."""
        return f"RATCHET_{self.who.upper()}_KEY"

    @cached_property
    def _server(self) -> Connection:
        try:
            import openai
        except ModuleNotFoundError as error:
            said = f"{self.who}.url: it needs the library openai; {installing('endpoint')}"
            raise ServerRefused(said) from error
        key = os.environ.get(self.key, "none").strip()
        if not (key.isascii() and key.isprintable()):  # it would stand in the error of whoever puts it into a header
            raise ServerRefused(f"{self.who}.url: {self.key} holds what no key can hold; set it again")
        how = {"base_url": self.config.url, "timeout": self.patience, "max_retries": 0}
        return Connection(lambda: openai.AsyncOpenAI(api_key=key, **how))

    @cached_property
    def _pace(self) -> Pace:
        return Pace(self.config.concurrency)

    @cached_property
    def _spent(self) -> Counter[str]:
        """Tokens of all answers of this run's life, read or not; without a budget nobody has to know."""
        counted = self.folder and self.config.budget
        answers = [*all_kept(self.folder), *all_kept(self.folder / UNREAD)] if counted else []
        return Counter(tokens=sum(map(_tokens_of_any, answers)))

    def answers(
        self, bodies: Sequence[Body], advance: Callable[[int], None], read: Callable[[Any], Any] = checked
    ) -> list[Any]:
        """What `read` makes of the server's answers to questions, in order; None for one that it cannot be asked, or
        never answers by what can be read. Equal ones are asked once; one of which `read` raises Failed is asked for
        again.

        `advance(n)` is called when n more are there. Raises ServerStopped when the server is dead or the budget spent,
        ServerRefused when the key does not, or no longer, do, RecordError when a kept answer is damaged.
        """
        places: dict[str, list[int]] = {}
        for place, body in enumerate(bodies):
            places.setdefault(content_id(body), []).append(place)
        found: list[Any] = [None] * len(bodies)
        failed: list[Exception] = []
        self._over.clear()
        _ = self._server, self._pace, self._spent  # made here, before there are threads

        def ask(of: list[int]) -> None:
            try:
                answer = self._answer(bodies[of[0]], read)
            except Exception as error:
                failed.append(error)  # the first is what counts: those under way end, and their answers are kept
                self._over.set()
                raise
            for place in of:
                found[place] = answer
            with self._lock:
                advance(len(of))

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            try:
                wait([pool.submit(ask, of) for of in places.values()], return_when=FIRST_EXCEPTION)
            finally:
                self._over.set()
                pool.shutdown(cancel_futures=True)
        if failed:
            raise failed[0]
        return found

    def _answer(self, body: Body, read: Callable[[Any], Any]) -> Any:
        """What an answer says, from its file or the server."""
        file = place_of(self.folder, body) if self.folder else None
        if file and file.exists():
            answer = kept(file)
            with self._lock:
                self.counts.kept += 1
            return read(answer)
        try:
            answer = self._persistently(body, read)
        except Unaskable as refused:
            with self._lock:
                self.counts.unaskable += 1
                every = self.counts.unaskable >= FIRST and not self.counts.answered + self.counts.kept
            if every and self.folder:
                raise ServerRefused(
                    f"{self.who}: {self.config.url} refuses every question ({refused}); see to what it takes"
                ) from None
            return None
        except Unread as unread:
            with self._lock:
                self.counts.unread += 1
                most = self.counts.unread > max(FIRST - 1, self.counts.answered + self.counts.kept)
            if most:
                raise self._stopped(f"answers most questions by nothing that can be read ({unread})") from None
            return None
        if self.folder:
            keep(self.folder, body, answer)
        with self._lock:
            self.counts.answered += 1
        return read(answer)

    def _paid(self, body: Body, read: Callable[[Any], Any]) -> Any:
        """An answer, counted. One that cannot be read is paid for too, and is kept apart where there is a budget."""
        answer = self.ask(self.path, body)
        with self._lock:
            self.counts.tokens += _tokens_of_any(answer)
            self._spent["tokens"] += _tokens_of_any(answer)
            with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
                self.counts.cost += self._cost(answer)
        try:
            read(answer)
        except Failed:
            if self.folder and self.config.budget:
                keep(self.folder / UNREAD, [body, time.time_ns()], answer)
            raise
        return answer

    def _cost(self, answer: Mapping[str, Any]) -> float:
        """What an answer cost, in the currency of the prices."""
        kinds = ("prompt_tokens", "completion_tokens")
        return sum(_used(answer, kind) * price / 1e6 for kind, price in zip(kinds, self.config.prices, strict=False))

    def _persistently(self, body: Body, read: Callable[[Any], Any]) -> dict[str, Any]:
        """Asks until there is an answer or too many attempts have failed."""
        reason, asked, heard = "", None, 0
        for attempt in range(ATTEMPTS):
            with self._pace:
                if self._over.is_set():
                    raise ServerStopped("another question has ended it")
                self._keep_to_budget()
                try:
                    answer = self._paid(body, read)
                    self._pace.answered()
                    return answer
                except Failed as failed:
                    reason, asked, heard = failed.reason, failed.wait, heard + (not failed.unheard)
                    if failed.busy:
                        self._pace.busy()
                with self._lock:
                    self.counts.again[reason] += attempt + 1 < ATTEMPTS
            if attempt + 1 < ATTEMPTS:
                self.rest(attempt, asked)
        if 2 * heard >= ATTEMPTS:
            raise Unread(reason)
        raise self._stopped(f"has failed {ATTEMPTS} times in a row ({reason})")

    def _stopped(self, why: str) -> ServerStopped:
        mend = "what it answered is kept; see to it, then `ratchet resume` goes on"
        return ServerStopped(f"{self.who}: {self.config.url} {why}; {mend}", f"it {why}", again=True)

    def rest(self, attempt: int, asked: float | None) -> None:
        """Waits after an attempt that has failed, as long as the server has asked for, or longer each time."""
        own = self.pause * 2**attempt * (0.5 + random.random())
        self._over.wait(min(LONGEST_WAIT, asked if asked and asked > 0 else own))

    def patiently(self, path: str, body: Body | None = None) -> Any:
        """`ask`, again while the server is there and busy. Raises as `ask` does."""
        for attempt in range(ATTEMPTS - 1):
            try:
                return self.ask(path, body)
            except Failed as failed:
                if not failed.busy:
                    raise
                self.rest(attempt, failed.wait)
        return self.ask(path, body)

    def ask(self, path: str, body: Body | None = None) -> Any:
        """The JSON of one answer, asked for once. Raises Unaskable, ServerRefused or Failed."""
        text = self.tell(path, body)
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise Failed("malformed JSON", unheard=True) from None

    def tell(self, path: str, body: Body | None = None) -> str:
        """The text of one answer, asked for once, at a path below the server's address, or an address of its own.
        Raises as `ask` does."""
        import openai

        try:
            return self._server.answer(path, body, self.longest)
        except TimeoutError:
            raise Failed(f"not whole after {self.longest:g} s", unheard=True) from None
        except openai.APITimeoutError:
            raise Failed(f"silent for {self.patience:g} s", unheard=True) from None
        except openai.APIConnectionError as error:
            raise Failed(f"no connection: {_line(error.__cause__ or error)}", unheard=True) from None
        except openai.APIStatusError as error:
            self._refuse(error.status_code, _message(error))
            raise Failed(str(error.status_code), _wait(error), error.status_code in _BUSY, unheard=True) from None

    def stop(self) -> None:
        """Has questions that wait to be asked again given up."""
        self._over.set()

    def _refuse(self, status: int, message: str) -> None:
        """Raises what a status means that no second attempt changes."""
        if status in _NO_ENTRY:
            raise ServerRefused(f"{self.who}: {self.config.url}: {_NO_ENTRY[status]} ({status}); set {self.key}")
        if status == 404:
            raise ServerRefused(
                f"{self.who}: {self.config.url} has no {self.model!r} ({message}); have it serve that, or see to "
                f"--{self.who}.url, which ends in /v1"
            )
        if status in _UNASKABLE:
            raise Unaskable(message)
        if status not in _AGAIN:
            raise ServerRefused(f"{self.who}: {self.config.url} answers {status} ({message}); see to --{self.who}.url")

    def _keep_to_budget(self) -> None:
        budget = self.config.budget
        if budget and self._spent["tokens"] >= budget:
            raise ServerStopped(
                f"{self.who}: the budget of {budget:,} tokens is spent; what was answered is kept; raise "
                f"--{self.who}.budget, then `ratchet resume` goes on"
            )


def _wait(error: Any) -> float | None:
    """The seconds that a server asks to wait, None where it asks for none."""
    asked = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(asked).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _message(error: Any) -> str:
    """What a server says about a mistake, in a line."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return _line(said or error)


def _line(said: Any) -> str:
    return " ".join(str(said).split())[:200] or type(said).__name__

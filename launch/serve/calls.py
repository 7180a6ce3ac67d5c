"""Answers that may call tools: what the model says and, where it opens a call, one that is kept to what is offered.

An answer makes one call at most, and ends with it.
"""

import contextlib
import functools
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from ratchet.bootstrap.tools import Caller
from ratchet.launch.serve.answers import OPENED, Call, Piece, sampled
from ratchet.launch.serve.asked import Chat, Function, Named, Refused
from ratchet.launch.serve.desk import Desk, Turn
from ratchet.launch.serve.served import Served
from ratchet.launch.serve.words import Word, Words
from ratchet.models.grammar import Grammar, refusal
from ratchet.models.rounds import Asked

KEPT = 64
"""Sets of tools whose grammars are kept compiled."""
ANY = ("a", "b")
"""Names that have no letter in common, so that what calls of both are opened with opens any."""
_NAME = re.compile("[a-zA-Z0-9_-]{1,64}")

Ask = Callable[[tuple[int, ...], Grammar | None], Asked]
"""How an answer goes on after the ids that it has said, kept to a grammar."""


class Offer(NamedTuple):
    """How the tools are called that an answer may call. `opening` is what a call is opened with, as `Words` has it;
    None where the answer must call one, before it says anything."""

    caller: Caller
    opening: int | str | None


class Offers:
    """The tools that clients of a model offer it, which is `served` now; how they are called is worked out once, and
    weights that others have replaced are not held."""

    def __init__(self, served: Callable[[], Served]):
        self._now = served
        self._known = functools.lru_cache(KEPT)(self._offer)

    @property
    def _served(self) -> Served:
        return self._now()

    def of(self, body: Chat) -> Offer | None:
        """What the answer to a chat may call; None where that is nothing. Raises Refused for tools that cannot be
        called."""
        choice = body.tool_choice
        functions = [tool.function for tool in body.tools]
        self._check(functions)
        if isinstance(choice, Named):
            functions = [function for function in functions if function.name == choice.function.name]
        if not functions and choice not in ("none", "auto"):
            raise Refused("tool_choice: it asks for a call of none of the tools; give that tool", param="tool_choice")
        if not functions or choice == "none":
            return None
        if body.response_format.schema_of is not None:
            mend = "set tool_choice to none, or leave either out"
            raise Refused(f"response_format: what may call tools keeps to no form; {mend}", param="response_format")
        offer = self._worked_out(functions)
        return offer if choice == "auto" else offer._replace(opening=None)

    def _check(self, functions: Sequence[Function]) -> None:
        if functions and not self._served.can_call:
            why = "it was trained from scratch, or its chat template writes no calls that can be told from answers"
            raise _refused(f"{self._served.name} calls none: {why}; leave them out", code="unsupported_parameter")
        names = [function.name for function in functions]
        if wrong := [name for name in names if not _NAME.fullmatch(name)]:
            raise _refused(f"{wrong[0][:80]!r} is no name of a tool; give it letters, digits, _ and -, at most 64")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise _refused(f"two are called {twice[0]}; give each a name of its own")
        for function in functions:
            if not (isinstance(function.schema_of, dict) and function.schema_of["type"] == "object"):
                raise _refused(f"{function.name}: its parameters are no JSON schema of an object; give one")

    def _worked_out(self, functions: Sequence[Function]) -> Offer:
        tools = [{"name": function.name, "parameters": function.schema_of} for function in functions]
        try:
            return self._known(json.dumps(tools))
        except (ValueError, RecursionError) as error:
            said = [f"{tool['name']}: {why}" for tool in tools if (why := _refusal(tool["parameters"]))]
            raise _refused(f"{said[0]}; mend its schema" if said else error) from error

    def _offer(self, tools: str) -> Offer:
        tokenizer = self._served.tokenizer
        caller, (first, *_) = Caller(json.loads(tools), tokenizer), tokenizer.parts(tokenizer.calling(ANY).opening)
        _ = caller.grammar  # compiled here
        return Offer(caller, first.lstrip() if isinstance(first, str) else first)


def _refused(said: object, code: str | None = None) -> Refused:
    return Refused(f"tools: {said}", param="tools", code=code)


def _refusal(schema: dict) -> str:
    try:
        return refusal(schema)
    except RecursionError:
        return "it is too deep"


async def answered(served: Served, desk: Desk, ask: Ask, offer: Offer, stops: Sequence[str]) -> AsyncIterator[Piece]:
    """What the model says up to the end of its turn, or up to a call and the call."""
    first, turn = ask((), None), Turn()
    said, opened, told = [], offer.opening is None, Piece("", [], call=Call())
    if not opened:
        async for piece in sampled(served, desk, first, stops, opening=offer.opening, turn=turn):
            said += [word.id for word in piece.words]
            opened, told = piece.finish == OPENED, piece._replace(finish=None, call=Call())
            if not opened:
                yield piece
    if not opened:
        return
    begun = (*said, *offer.caller.opening)
    if first.longest <= len(begun):
        yield told._replace(finish="length")
        return
    yield told.then(Piece("", [Word(token, 0) for token in offer.caller.opening], call=Call()))
    async for piece in _called(served, desk, ask(begun, offer.caller.grammar), offer.caller, turn):
        yield piece


async def _called(served: Served, desk: Desk, asked: Asked, caller: Caller, turn: Turn) -> AsyncIterator[Piece]:
    """A call after its opening, as its arguments come."""
    words, shown, call_id = Words(served.tokenizer), 0, secrets.token_hex(5)[:9]  # as Mistral's templates want one
    async with contextlib.aclosing(desk.say(asked, turn)) as parts:
        async for part in parts:
            ids = part.tokens.tolist()
            for token in ids:
                if token not in served.ends:
                    words.add(token)
            whole = part.ended and ids[-1:] != [] and ids[-1] in served.ends
            name, arguments = (caller.read if whole else caller.begun)(words.text) or ("", "")
            call = Call(arguments[shown:], *((call_id, name) if arguments and not shown else ()))
            shown = len(arguments)
            finish = "tool_calls" if whole else "length" if part.ended else None
            yield Piece("", [Word(token, 0) for token in ids], finish, call)

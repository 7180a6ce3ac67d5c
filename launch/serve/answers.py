"""What is answered: choices as they are sampled, and their JSON as OpenAI's servers write it."""

import contextlib
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ratchet.launch.serve.desk import Desk, Turn
from ratchet.launch.serve.served import Served
from ratchet.launch.serve.words import Word, Words, spelled
from ratchet.models.draw import Captured, Logs
from ratchet.models.rounds import Asked

LEAST = -9999.0
"""What OpenAI's servers write for the logarithm of a probability that is as good as none."""


OPENED = "opened"
"""Why a choice ends where the model calls a tool: the call is yet to come."""


class Call(NamedTuple):
    """More of a call: its arguments in JSON. Its id and the tool's name come at once, when they are known."""

    arguments: str = ""
    id: str = ""
    name: str = ""


class Piece(NamedTuple):
    """More of a choice: text that can be shown, tokens, why it ends where it does, and what it has of a call."""

    text: str
    words: list[Word]
    finish: str | None = None
    call: Call | None = None

    def then(self, more: "Piece") -> "Piece":
        """Both as one."""
        calls = [call for call in (self.call, more.call) if call]
        call = Call(*map("".join, zip(*calls, strict=True))) if calls else None
        return Piece(self.text + more.text, self.words + more.words, more.finish, call)


async def sampled(
    served: Served, desk: Desk, asked: Asked, stops: Sequence[str], *, before: int = 0,
    opening: int | str | None = None, turn: Turn | None = None,
) -> AsyncIterator[Piece]:  # fmt: skip
    """What a request says, piece by piece, up to its end, a stop string, the `opening` of a call, as `Words` has it, or
    its length. Offsets count from `before`. Tokens that spell an opening are not told."""
    words, told = Words(served.tokenizer, stops, opening=opening), []
    async with contextlib.aclosing(desk.say(asked, turn)) as parts:
        async for part in parts:
            for token, likely in zip(part.tokens.tolist(), _likely(part.captured), strict=True):
                offset = len(words.text) if token in served.ends else words.add(token)
                if words.opened:
                    told = [] if isinstance(opening, str) else told
                    break
                log = next(log for i, log in likely if i == token)
                told.append(Word(token, before + offset, log, likely))
                if words.stopped:
                    break
            if part.ended:
                words.end()
            by_itself = words.stopped or (part.ended and told and told[-1].id in served.ends)
            finish = OPENED if words.opened else "stop" if by_itself else "length" if part.ended else None
            if finish or not words.unsure:
                yield Piece(words.fresh(finish is not None), told, finish)
                told = []
            if finish:
                return


def likeliest(served: Served, logs: Logs, before: int) -> Piece:
    """The one token that greedy sampling says after a text that was scored."""
    likely = _pairs(logs.ids[-1], logs.logs[-1])
    token, log = next((i, log) for i, log in likely if i not in served.sampler.unused)
    words = Words(served.tokenizer)
    if token not in served.ends:
        words.add(token)
        words.end()
    finish = "stop" if token in served.ends else "length"
    return Piece(words.fresh(ended=True), [Word(token, before, log, likely)], finish)


def given(served: Served, prompt: Sequence[int], text: str, logs: Logs | None) -> list[Word]:
    """The tokens of a prompt of this text, with what `logs` says of all but the first."""
    words = Words(served.tokenizer, whole=True)
    offsets = [words.add(token) for token in prompt]
    words.end()
    ahead = len(words.text) - len(text) if words.text.endswith(text) else 0  # what a tokenizer begins a text with
    likely = [None] * len(prompt) if logs is None else [None, *map(_pairs, logs.ids[:-1], logs.logs[:-1])]
    own = [None] * len(prompt) if logs is None else [None, *logs.own[:-1].tolist()]
    places = [max(0, offset - ahead) for offset in offsets]
    return list(map(Word, prompt, places, own, likely))


def legacy(served: Served, words: Sequence[Word], count: int) -> dict[str, Any]:
    """Log-probabilities as completions have them: `count` likeliest beside each token, by their spelling.

    Of tokens that are spelled alike, the likeliest has the spelling and the others are `token_id:7`.
    """
    piece = lambda token: spelled(served.tokenizer, token)

    def top(word: Word) -> dict[str, float] | None:
        if word.likely is None:
            return None
        found: dict[str, float] = {}
        for token, log in _with_own(word, count):
            name = piece(token) if piece(token) not in found else f"token_id:{token}"
            found[name] = _number(log)
        return found

    return {
        "tokens": [piece(word.id) for word in words],
        "token_logprobs": [None if word.log is None else _number(word.log) for word in words],
        "top_logprobs": [top(word) for word in words],
        "text_offset": [word.offset for word in words],
    }


def listed(served: Served, words: Sequence[Word], count: int) -> dict[str, Any]:
    """Log-probabilities as chats have them, with the bytes of each token; those of calls are left out."""

    def one(token: int, log: float) -> dict[str, Any]:
        text = spelled(served.tokenizer, token)
        return {"token": text, "logprob": _number(log), "bytes": list(served.tokenizer.spell(token))}

    said = [word for word in words if word.log is not None]
    told = [{**one(word.id, word.log), "top_logprobs": [one(*pair) for pair in word.likely[:count]]} for word in said]
    return {"content": told, "refusal": None}


def message(piece: Piece) -> dict[str, Any]:
    """The message of a chat: what the assistant says, and the call that it makes."""
    made = {"role": "assistant", "content": piece.text, "refusal": None}
    if piece.call is None:
        return made
    calls = {"tool_calls": [_called(piece.call)]} if piece.call.name else {}
    return {**made, "content": piece.text if piece.text.strip() else None, **calls}


def delta(piece: Piece, begins: bool) -> dict[str, Any]:
    """What a piece adds to such a message."""
    made: dict[str, Any] = {"role": "assistant"} if begins else {}
    if piece.text or piece.call is None:
        made["content"] = piece.text
    if piece.call and piece.call.arguments:
        made["tool_calls"] = [{"index": 0, **_called(piece.call)}]
    return made


def _called(call: Call) -> dict[str, Any]:
    named = {"id": call.id, "type": "function"} if call.name else {}
    return {**named, "function": {**({"name": call.name} if call.name else {}), "arguments": call.arguments}}


def _with_own(word: Word, count: int) -> Iterator[tuple[int, float]]:
    """The likeliest, and the token's own where it is none of them."""
    yield from word.likely[:count]
    if word.id not in [token for token, _ in word.likely[:count]]:
        yield word.id, word.log


def _likely(captured: Captured) -> Iterator[tuple[tuple[int, float], ...]]:
    """What each token was drawn from, in logarithms."""
    with np.errstate(divide="ignore"):
        logs_NK = np.log(captured.probs.astype(np.float64))
    return map(_pairs, captured.ids, logs_NK)


def _pairs(ids_K: np.ndarray, logs_K: np.ndarray) -> tuple[tuple[int, float], ...]:
    """Ids with their logarithms, the likeliest first."""
    return tuple(sorted(zip(ids_K.tolist(), logs_K.tolist(), strict=True), key=lambda pair: -pair[1]))


def _number(log: float) -> float:
    return log if math.isfinite(log) else LEAST

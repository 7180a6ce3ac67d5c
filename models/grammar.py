"""What a request may say: grammars (llguidance) whose masks of allowed ids are computed between steps, on the host.

Shapes: Q queued requests, B slots, W words of 32 bits, one bit an id.
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer, TokenizerWrapper
from llguidance.numpy import consume_token_par, fill_next_token_bitmask_par


class Pieces:
    """A vocabulary as llguidance asks for it: what each id spells in bytes; `special` ones spell nothing."""

    bos_token_id = None

    def __init__(self, tokens: Sequence[bytes], special: Sequence[int], end: int):
        self.tokens, self.special_token_ids, self.eos_token_id = list(tokens), list(special), end
        silent = set(special)
        self._ids = {piece: i for i, piece in enumerate(tokens) if i not in silent}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes) -> list[int]:
        """The ids of a text, longest pieces first. (SentencePiece would begin each text with a space.)"""
        found = []
        while text:
            size = next(n for n in range(min(self._longest, len(text)), 0, -1) if text[:n] in self._ids)
            found.append(self._ids[text[:size]])
            text = text[size:]
        return found

    def spelled(self) -> LLTokenizer:
        """The vocabulary in llguidance's own form."""
        return LLTokenizer(TokenizerWrapper(self))


Lead = tuple[str | int, ...]
"""What comes before the JSON of a call's arguments: text, and ids of symbols, which no text spells."""


class Calling(NamedTuple):
    """How a model calls tools: the ids that every call begins with, and by tool what comes between them and the JSON of
    the arguments, such as `lookup", "arguments":`. It is empty where the arguments alone tell which tool is meant."""

    opening: tuple[int, ...]
    leads: Mapping[str, Lead]


@dataclass(frozen=True, eq=False)
class Grammar:
    """What a request may say. It is compiled once, and every request begins with a copy of `start`."""

    start: LLMatcher
    size: int
    """How many ids it knows, from 0 on; all others are never allowed."""

    @classmethod
    def of_json(cls, schema: Mapping, spelled: LLTokenizer) -> "Grammar":
        """JSON by a schema, without white space between its parts but for a space at the beginning, which tokenizers
        like to put there; then the end. Raises ValueError for a schema that cannot be kept to, and when the tokenizer
        cannot spell printable ASCII."""
        return cls.of_calls([((), schema)], spelled)

    @classmethod
    def of_calls(cls, calls: Sequence[tuple[Lead, Mapping]], spelled: LLTokenizer) -> "Grammar":
        """One of several calls: what leads to its arguments, and their JSON by a schema. Raises as `of_json` does."""
        start = LLMatcher(spelled, LLMatcher.grammar_from_lark(_lark(calls)))
        if start.is_error():
            raise ValueError(f"grammar: {_line(start.get_error())}; mend the schema")
        if unknown := "".join(c for c in string.printable[:95] if not spelled.greedy_tokenize(c)):
            raise ValueError(f"grammar: the tokenizer cannot spell {unknown[:20]}; use one that falls back to bytes")
        return cls(start, spelled.vocab_size)


    def allows(self, ids: Sequence[int]) -> bool:
        """Whether a request may say all of this and then end."""
        said = self.start.deep_copy()
        return said.validate_tokens([*ids]) == len(ids) and said.consume_tokens([*ids]) and said.is_accepting()


def refusal(schema: Mapping) -> str:
    """Why no grammar can keep to a schema, in a line, whatever the tokenizer is; "" where one can."""
    return _line(LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(_lark([((), schema)]))))


def _lark(calls: Sequence[tuple[Lead, Mapping]]) -> str:
    """A grammar of calls as llguidance reads it."""
    rules = [f"start: {' | '.join(f'call{number}' for number in range(len(calls)))}"]
    for number, (lead, schema) in enumerate(calls):
        parts = [f"<[{part}]>" if isinstance(part, int) else json.dumps(part, ensure_ascii=False) for part in lead]
        compact = {**schema, "x-guidance": {"whitespace_flexible": False}}
        rules.append(f'call{number}: {" ".join(parts)} " "? arguments{number}')
        rules.append(f"arguments{number}: %json {json.dumps(compact)}")
    return "\n".join(rules)


class Guides:
    """The grammars of a call's requests, each as far as its request has come; None: all ids are allowed."""

    def __init__(self, grammars: Sequence[Grammar | None], vocab_size: int):
        self._grammars, self._executor = grammars, LLExecutor()
        self._known = next((grammar.size for grammar in grammars if grammar), 0)
        self._said: dict[int, LLMatcher] = {}
        self.lost: dict[int, str] = {}
        """Requests whose grammar was lost, and why; they may say anything then, so that who called has to end them."""
        self.words = -(-vocab_size // 32) if self._known else 0
        """W; 0 when no request has a grammar."""

    def first(self, places_Q: np.ndarray) -> np.ndarray | None:
        """What is allowed at the beginning [Q, W] of the requests at these places of the queue (-1: no request); None
        when no request has a grammar."""
        for index in places_Q.tolist():
            if index >= 0 and (grammar := self._grammars[index]):
                self._said[index] = grammar.start.deep_copy()
        return self._allowed(places_Q) if self.words else None

    def after(self, said_B: np.ndarray, token_B: np.ndarray, index_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """After a step, in which slots said a token of some requests and are now at those of `index_B`: which still
        work at the same [B], and what these may say next [B, W]."""
        still_B = (said_B == index_B) & (said_B >= 0)
        spoken = zip(said_B[still_B].tolist(), token_B[still_B].tolist(), strict=True)
        moved = [(self._said[index], token) for index, token in spoken if index in self._said]
        if moved:
            consume_token_par(self._executor, moved)
        return still_B, self._allowed(np.where(still_B, said_B, -1))

    def check(self) -> None:
        """Raises ValueError when a grammar is lost."""
        if self.lost:
            raise ValueError(f"grammar: {next(iter(self.lost.values()))}")

    def _allowed(self, index_B: np.ndarray) -> np.ndarray:
        """What the requests of these indices may say next, as words of bits [B, W]. A grammar that is lost, which
        llguidance would take for its end, is noted."""
        known_BW = np.full((len(index_B), -(-self._known // 32)), -1, np.int32)
        rows = [(self._said[index], row) for row, index in enumerate(index_B.tolist()) if index in self._said]
        if rows:
            fill_next_token_bitmask_par(self._executor, rows, known_BW)
        for index in [i for i in index_B.tolist() if i in self._said and self._said[i].is_error()]:
            said = _line(self._said.pop(index).get_error())
            self.lost[index] = f"{said}; give it a simpler schema, of what the tokenizer can spell"
            known_BW[index_B == index] = -1
        rows = [(matcher, row) for matcher, row in rows if not matcher.is_error()]
        free_B = np.isin(np.arange(len(index_B)), [row for _, row in rows], invert=True)
        unknown_BW = np.where(free_B[:, None], -1, np.zeros((1, self.words - known_BW.shape[1]), np.int32))
        return np.concatenate([known_BW, unknown_BW.astype(np.int32)], axis=1)


def _line(said: str) -> str:
    return " ".join(said.split())[:200]

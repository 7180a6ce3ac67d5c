"""Tokens to text as they come: whole letters only, up to a stop string."""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

Likely = tuple[tuple[int, float], ...]
"""Ids with the natural logarithms of their probabilities, the likeliest first."""


class Word(NamedTuple):
    """A token as it is told: its id, where in the text it begins, its log-probability and the likeliest ids in its
    place; these two are None for the first token of a text, which nothing goes before."""

    id: int
    offset: int
    log: float | None = None
    likely: Likely | None = None


class Words:
    """The text of tokens that come one after the other. Names of special tokens are part of a `whole` text alone."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = (), whole: bool = False):
        self._tokenizer, self._stops, self._left_out = tokenizer, stops, () if whole else tokenizer.left_out
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown = 0
        self.text = ""
        """All that was said, a part that may yet turn out to begin a stop string included."""
        self.stopped = False
        """Whether a stop string was said; what comes after it counts no more."""

    def add(self, token: int) -> int:
        """Takes the next token; returns where it begins in the text."""
        begins = len(self.text)
        if token not in self._left_out:
            self._extend(self._letters.decode(self._tokenizer.spell(token)))
        return begins

    def end(self) -> None:
        """Nothing more comes: bytes that make no letter become U+FFFD."""
        self._extend(self._letters.decode(b"", final=True))

    def fresh(self, ended: bool = False) -> str:
        """What can be told since this was last asked. What may begin a stop string is kept back unless it has ended."""
        safe = len(self.text) if ended or self.stopped else len(self.text) - self._begun()
        told, self._shown = self.text[self._shown : safe], max(safe, self._shown)
        return told

    def _extend(self, more: str) -> None:
        if self.stopped or not more:
            return
        since = max(0, len(self.text) - max(map(len, self._stops), default=0))
        self.text += more
        places = [at for at in (self.text.find(stop, since) for stop in self._stops) if at >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True

    def _begun(self) -> int:
        """Letters at the end of the text that a stop string may begin with."""
        sizes = [n for stop in self._stops for n in range(1, len(stop)) if self.text.endswith(stop[:n])]
        return max(sizes, default=0)


def spelled(tokenizer: Any, token: int) -> str:
    """A token as JSON can hold it: bytes that make no letter are `bytes:\\xe2\\x80`, as OpenAI's servers say them."""
    spells = tokenizer.spell(token)
    try:
        return spells.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spells)

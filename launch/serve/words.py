"""Tokens to text as they come: whole letters only, up to a stop string, or to where a call of a tool is opened."""

import codecs
from collections.abc import Sequence
from typing import Any, NamedTuple

Likely = tuple[tuple[int, float], ...]
"""Ids with the natural logarithms of their probabilities, the likeliest first."""


class Word(NamedTuple):
    """A token as it is told: its id, where in the text it begins, its log-probability and the likeliest ids in its
    place; these two are None for the first token of a text, which nothing goes before, and in calls of tools."""

    id: int
    offset: int
    log: float | None = None
    likely: Likely | None = None


class Words:
    """The text of tokens that come one after the other. Names of special tokens are part of a `whole` text alone.

    `opening` is what calls of tools begin with: a symbol, wherever it comes, or a text that all begins with.
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str] = (), whole: bool = False, opening: int | str | None = None
    ):
        self._tokenizer, self._stops, self._left_out = tokenizer, stops, () if whole else tokenizer.left_out
        self._opening = opening
        self._letters = codecs.getincrementaldecoder("utf-8")("replace")
        self._shown = 0
        self.text = ""
        """All that was said, a part that may yet turn out to begin a stop string included."""
        self.stopped = False
        """Whether a stop string was said; what comes after it counts no more."""
        self.opened = False
        """Whether a call was opened; neither that nor what comes after it is part of the text."""

    @property
    def unsure(self) -> bool:
        """Whether all that was said may yet turn out to be what opens a call."""
        may_open = isinstance(self._opening, str) and not (self.opened or self.stopped)
        return may_open and self._opening.startswith(self.text.lstrip())

    def add(self, token: int) -> int:
        """Takes the next token; returns where it begins in the text."""
        begins = len(self.text)
        if token == self._opening:
            self.opened = True
        elif token not in self._left_out:
            self._extend(self._letters.decode(self._tokenizer.spell(token)))
        return begins

    def end(self) -> None:
        """Nothing more comes: bytes that make no letter become U+FFFD."""
        self._extend(self._letters.decode(b"", final=True))

    def fresh(self, ended: bool = False) -> str:
        """What can be told since this was last asked. What may begin a stop string is kept back unless it has ended, as
        is space where a call may follow."""
        safe = len(self.text) if ended or self.stopped else len(self.text) - self._begun()
        if self.opened or (self._opening is not None and not (ended or self.stopped)):
            safe = min(safe, len(self.text.rstrip()))
        told, self._shown = self.text[self._shown : safe], max(safe, self._shown)
        return told

    def _extend(self, more: str) -> None:
        if self.stopped or self.opened or not more:
            return
        since = max(0, len(self.text) - max(map(len, self._stops), default=0))
        self.text += more
        places = [at for at in (self.text.find(stop, since) for stop in self._stops) if at >= 0]
        if places:
            self.text, self.stopped = self.text[: min(places)], True
        elif isinstance(self._opening, str) and self.text.lstrip().startswith(self._opening):
            self.text, self.opened = "", True

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

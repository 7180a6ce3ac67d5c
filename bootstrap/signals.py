"""What can be measured of an answer: which of its words stand in the sources, whether other answers say the same, and
how likely it is.

The numbers say little by themselves: calibration finds from which on an answer is right.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bm25s.stopwords import STOPWORDS_EN_PLUS

from ratchet.bootstrap.retrieval import UNSPACED
from ratchet.bootstrap.transcript import UNREADABLE
from ratchet.bootstrap.worlds.answers import f1, plain
from ratchet.bootstrap.worlds.world import Document

SAME = 0.5
"""Two answers whose words have at least this F1 (`worlds.answers`) say the same."""
_PART = re.compile(f"[{UNSPACED}]+|[^\\s{UNSPACED}]+")


class Measured(NamedTuple):
    """A number, and the doubt that is spoken where it is too low. A doubt that begins with UNREADABLE says that there
    is no number."""

    score: float
    doubt: str


@functools.lru_cache(maxsize=4096)
def words(text: str) -> tuple[str, ...]:
    """The words of a text as they are compared: in small letters, without marks of punctuation and letters of no width.

    Of a script that is written without spaces, these are its pairs of letters.
    """
    spaced = "".join(letter if unicodedata.category(letter)[0] in "LNM" else " " for letter in plain(text))
    return tuple(word for part in _PART.findall(spaced) for word in _words_of(part))


def _words_of(part: str) -> list[str]:
    unspaced = re.match(f"[{UNSPACED}]", part) and len(part) > 1
    return [part[i : i + 2] for i in range(len(part) - 1)] if unspaced else [part]


def grounded(text: str, passages: Sequence[Document]) -> Measured:
    """The share of the different words of a text that stand in a passage, without English stop words and what questions
    are asked with, such as "what", "did" and "should"."""
    said = set(words(text))
    content = said - set(STOPWORDS_EN_PLUS) or said
    if not content:
        return Measured(0.0, f"{UNREADABLE}: it has no words")
    strange = content - {word for p in passages for word in words(p.text)}
    return Measured(1 - len(strange) / len(content), f"in no passage: {', '.join(sorted(strange))}")


def verbatim(text: str, passages: Sequence[Document]) -> Measured:
    """1.0 when a text stands in a passage as it is, but for case and punctuation, else 0.0."""
    said = f" {' '.join(words(text))} "
    stands = said.strip() and any(said in f" {' '.join(words(p.text))} " for p in passages)
    return Measured(float(bool(stands)), f"stands in no passage: {text}")


def agreement(text: str, others: Sequence[str]) -> Measured:
    """The share of other answers to the same task that say the same."""
    if not others:
        return Measured(0.0, f"{UNREADABLE}: there is no other answer to compare it with")
    same = sum(f1(text, [other]) >= SAME for other in others)
    return Measured(same / len(others), f"{same} of {len(others)} other answers say the same")


SHARES: dict[str, Callable[[str, Sequence[Document]], Measured]] = {"grounded": grounded, "verbatim": verbatim}
"""Rules that measure a text by the passages in view."""
LIKELIHOODS = ("gain", "likely", "agreement")
"""How likely an answer is, by the model that reviews: `likely` is the mean over its tokens of log p(token | sources,
question, tokens before), `gain` what the sources add to it, both in nats per token; `agreement` goes by how many of the
other samples say the same."""
NATS = ("gain", "likely")
"""Those that are no share."""
USUAL_THRESHOLDS = {"gain": 0.0, "likely": -1.0}
"""From where on a criterion passes that nothing has calibrated yet; all others 0.5."""

"""What can be measured of an answer: which of its words stand in the sources, whether other answers say the same, and
how likely it is.

The numbers say little by themselves: calibration finds from which on an answer is right.
"""

import functools
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ratchet.bootstrap.retrieval import STOPWORDS, UNSPACED
from ratchet.bootstrap.transcript import UNREADABLE
from ratchet.bootstrap.worlds.answers import f1, plain
from ratchet.bootstrap.worlds.world import Document

SAME = 0.5
"""Two answers whose words have at least this F1 (`worlds.answers`) say the same."""
TURNED, TURNED_WORDS = 10, 400
"""Times at most that two names of a text change places, and words at most of what is made so, since each is read."""
LONGEST_TITLE = 3
"""Letters at most of a word before a point that ends no sentence, as in "Mr. Finch"."""
_ARTICLES = frozenset("a an the his her its their my our your".split())
_WORD = re.compile(r"[^\W_]+")
_PART = re.compile(f"[{UNSPACED}]+|[^\\s{UNSPACED}]+")


class Measured(NamedTuple):
    """A number, and the doubt that is spoken where it is too low. A doubt that begins with UNREADABLE says that there
    is no number. `likely` is the log-probability of a text that was compared with its likes."""

    score: float
    doubt: str
    likely: float = 0.0


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
    content = said - STOPWORDS or said
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


def turned(text: str) -> list[str]:
    """A text with two of its names in each other's place, neighbours first: at most TURNED times, and fewer of a long
    text, so that all together have no more than TURNED_WORDS words, or once.

    A name is a row of capitalised words, or one or two words after an article or the like: of "The bees stung Joost.",
    "Joost stung the bees." is made.
    """
    found, names = {}, _names(text)
    most = min(TURNED, max(1, TURNED_WORDS // max(1, len(_WORD.findall(text)))))
    for apart in range(1, len(names)):
        for (start, middle), (rest, end) in zip(names, names[apart:], strict=False):
            first, second = text[start:middle], text[rest:end]
            if rest < middle or first.casefold() == second.casefold():
                continue
            first, second = (_placed(name, text[:place]) for name, place in ((first, rest), (second, start)))
            found[text[:start] + second + text[middle:rest] + first + text[end:]] = True
            if len(found) == most:
                return [*found]
    return [*found]


def _placed(name: str, before: str) -> str:
    """A name as it is written after other text: with a capital where a sentence begins, else without one if an article
    stands before it."""
    if not before.strip() or before.rstrip()[-1] in ".!?":
        return name[:1].upper() + name[1:]
    return name[:1].lower() + name[1:] if name.split()[0].casefold() in _ARTICLES else name


def _names(text: str) -> list[tuple[int, int]]:
    """Where names begin and end. Of two words after an article, the first one is there alone as well."""
    words = list(_WORD.finditer(text))
    common = [w[0].casefold() in STOPWORDS for w in words]
    after = [w[0].casefold() in _ARTICLES for w in words]
    proper = [w[0][0].isupper() and not of for w, of in zip(words, common, strict=True)]
    between = [text[a.end() : b.start()] for a, b in itertools.pairwise(words)]
    titles = [len(w[0]) <= LONGEST_TITLE for w in words]
    joined = [False, *(gap == " " or (gap == ". " and title) for gap, title in zip(between, titles, strict=False))]
    found = []
    for n, word in enumerate(words):
        end = n + 1
        if after[n]:
            while end < min(n + 3, len(words)) and joined[end] and not common[end]:
                found.append((word.start(), words[end].end()))
                end += 1
        elif proper[n] and not (joined[n] and (proper[n - 1] or after[n - 1])):
            while end < len(words) and joined[end] and proper[end]:
                end += 1
            found.append((word.start(), words[end - 1].end()))
    return found


def roles(own: float, others: Sequence[float], of: Sequence[str]) -> Measured:
    """The probability of a text among itself and the likeliest of those in which two names have changed places, from
    the log-probabilities of each; 1 where there is nothing to exchange."""
    if not others:
        return Measured(1.0, "")
    if not all(map(math.isfinite, (own, *others))):
        return Measured(0.0, f"{UNREADABLE}: its log-probability is {own}, and those of its likes {others}")
    best = max(range(len(others)), key=others.__getitem__)
    share = 1 / (1 + math.exp(min(others[best] - own, 700.0)))
    return Measured(share, f"likelier the other way round: {of[best]}", own)


class Scale(NamedTuple):
    """What a criterion's number is: a share, or `in_nats` per token. Where nothing has been calibrated, it passes from
    the `usual` threshold on. A threshold that is not `calibrated` stays as the rubric gives it."""

    usual: float = 0.5
    in_nats: bool = False
    calibrated: bool = True


_SHARE = Scale()
LIKELIHOODS = {
    "gain": Scale(0.0, in_nats=True),
    "likely": Scale(-1.0, in_nats=True),
    "agreement": _SHARE,
    "roles": Scale(calibrated=False),  # a half is as likely as the opposite
}
"""How likely an answer is, by the model that reviews: `likely` is the mean over its tokens of log p(token | sources,
question, tokens before), `gain` what the sources add to it; `agreement` goes by how many of the other samples say the
same, and `roles` by what the same words are worth with two names exchanged."""


def scale(criterion_id: str) -> Scale:
    """That of a likelihood; the numbers of all other criteria are shares."""
    return LIKELIHOODS.get(criterion_id, _SHARE)

"""Short answers against ones that people gave: F1 as SQuAD measures it, by words, without articles and signs, and
whether an answer is right, for which the signs of numbers and the last letter of "Plan A" count too."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from ratchet.bootstrap.worlds.world import Grade, words

ENOUGH = 0.5
"""The F1 from which on an answer that does not hold the known one is right."""
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_NO_SIGNS = str.maketrans("", "", string.punctuation + "‘’“”")
_BEFORE_A_WORD = re.compile(r"""(?<!\w)(?:a|(?:^|(?<=[.!?:]\s)|(?<=["“\n]))A|(?i:an|the))(?=\s+\W*\w)""")
"""An article, which a capital A is where a sentence begins. One that no word follows is a name's, as in "vitamin A"."""
_MEANING = (
    (re.compile(r"(?<!\w)[-−](?=\d)"), "minus"),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (re.compile(r"(?<=\d)\.(?=\d)"), "point"),
    (re.compile(r"(?<=\d):(?=\d)"), "to"),
    (re.compile(r"(?<=\w)#"), "sharp"),
    (re.compile(r"(?<=\w)\+\+"), "plusplus"),
    (re.compile(r"(?<=\d)[-‐‑‒–—―−/](?=\d)"), " "),
)
"""Signs that make another number or name: -5 is not 5, nor 3.5 the same as 35, 12:30 as 1230, C# as C."""
_DASH = re.compile(r"[-‐‑‒–—―/]")


def grade(text: str, known: Sequence[str]) -> Grade:
    """An answer against one or several known ones.

    It is right when it holds the words of one in a row ("holds"), or shares enough words with one that F1 is at least
    one half ("overlaps"); else it is "wrong".
    """
    overlaps = lambda k: max(map(_f1, _compared(text), _compared(k))) >= ENOUGH
    label = "holds" if any(holds(text, k) for k in known) else "overlaps" if any(map(overlaps, known)) else "wrong"
    return Grade(label != "wrong", label)


def holds(text: str, known: str) -> bool:
    """Whether a text has the words of a known answer in a row; of one that is signs alone, such as "%", those signs."""
    if not any(sought := _compared(known)):
        return bool(known.strip()) and plain(known).strip() in plain(text)
    pairs = zip(sought, _compared(text), strict=True)
    return any(f" {' '.join(those)} " in f" {' '.join(said)} " for those, said in pairs)


def f1(text: str, known: Sequence[str]) -> float:
    """The harmonic mean of the shares of words that a text and a known answer have in common, from 0 to 1; the best of
    several known answers counts."""
    return max(_f1(normalised(text), normalised(k)) for k in known)


def normalised(text: str) -> list[str]:
    """The words of a text as SQuAD compares them, without articles and signs; a text of nothing but articles keeps
    them, such as "A" for a vitamin."""
    said = plain(text).translate(_NO_SIGNS)
    return words(_ARTICLE.sub(" ", said)) or words(said)


def plain(text: str) -> str:
    """A text in small letters, each in its common form and none of no width."""
    return _common(text).casefold()


def _compared(text: str) -> tuple[list[str], list[str]]:
    """The words by which an answer is graded: with parts of compounds as words of their own, and as one word, since
    people write "well-known", "well known" and "wellknown"."""
    said = _BEFORE_A_WORD.sub(" ", _common(text)).casefold()
    for sign, meaning in _MEANING:
        said = sign.sub(meaning, said)
    return tuple(words(_DASH.sub(between, said).translate(_NO_SIGNS)) for between in (" ", ""))


def _common(text: str) -> str:
    """A text with each letter in its common form and none of no width."""
    letters = unicodedata.normalize("NFKC", text)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Cf")


def _f1(said: Sequence[str], known: Sequence[str]) -> float:
    both = (Counter(said) & Counter(known)).total()
    return 2 * both / (len(said) + len(known)) if both else 0.0

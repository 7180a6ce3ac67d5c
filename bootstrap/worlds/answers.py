"""Short answers against ones that people gave: as SQuAD grades them, by words, without articles and signs."""

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


def grade(text: str, known: Sequence[str]) -> Grade:
    """An answer against one or several known ones.

    It is right when it holds the words of one in a row ("holds"), or shares enough words with one that F1 is at least
    one half ("overlaps"); else it is "wrong".
    """
    label = "holds" if any(holds(text, k) for k in known) else "overlaps" if f1(text, known) >= ENOUGH else "wrong"
    return Grade(label != "wrong", label)


def holds(text: str, known: str) -> bool:
    """Whether a text has the words of a known answer in a row; of one that is signs alone, such as "%", those signs."""
    if not (sought := normalised(known)):
        return bool(known.strip()) and plain(known).strip() in plain(text)
    return f" {' '.join(sought)} " in f" {' '.join(normalised(text))} "


def f1(text: str, known: Sequence[str]) -> float:
    """The harmonic mean of the shares of words that a text and a known answer have in common, from 0 to 1; the best of
    several known answers counts."""
    return max(_f1(normalised(text), normalised(k)) for k in known)


def normalised(text: str) -> list[str]:
    """The words of a text as they are compared, without articles and signs; a text of nothing but articles keeps them,
    such as "A" for a vitamin."""
    said = plain(text).translate(_NO_SIGNS)
    return words(_ARTICLE.sub(" ", said)) or words(said)


def plain(text: str) -> str:
    """A text in small letters, each in its common form and none of no width."""
    letters = unicodedata.normalize("NFKC", text).casefold()
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Cf")


def _f1(said: Sequence[str], known: Sequence[str]) -> float:
    both = (Counter(said) & Counter(known)).total()
    return 2 * both / (len(said) + len(known)) if both else 0.0

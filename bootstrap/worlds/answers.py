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
    (re.compile(r"(?<!\w)[-‐‑–−](?=\d)"), "minus "),
    (re.compile(r"(?<=\d),(?=\d{3}\b)"), ""),
    (re.compile(r"(?<=\d)[.,](?=\d)"), "point"),
    (re.compile(r"(?<=\w)#"), "sharp"),
    (re.compile(r"(?<=\w)\+\+"), "plusplus"),
)
"""Signs that make another number or name, and words for them: -5 is not 5, 3.5 not 35, C# not C."""
_WITHIN = re.compile(r"(?<=\w)[-‐‑‒–—―−/](?=\w)|(?<=\d):(?=\d)")
"""A sign between parts of one word, number or range, as in "well-known", 3/4 and 12:30."""
_MARK = "\ue000"


def grade(text: str, known: Sequence[str]) -> Grade:
    """An answer against one or several known ones.

    It is right when it holds the words of one in a row ("holds"), or shares enough words with one that F1 is at least
    one half ("overlaps"); else it is "wrong".
    """
    overlaps = lambda k: _f1(_words(text), _words(k)) >= ENOUGH
    label = "holds" if any(holds(text, k) for k in known) else "overlaps" if any(map(overlaps, known)) else "wrong"
    return Grade(label != "wrong", label)


def holds(text: str, known: str) -> bool:
    """Whether a text has the words of a known answer in a row; of one that is signs alone, such as "%", those signs.

    A part of a compound or of a range is not the whole: "non-violent" does not hold "violent", nor 3/4 hold 4. But
    "well-known", "well known" and "wellknown" are the same.
    """
    if not (sought := _said(known)):
        return bool(known.strip()) and plain(known).strip() in plain(text)
    named = sought.endswith(" a")  # which people write small, where it looks like an article
    texts = [_said(text), *([_said(text, articles=True)] if named else [])]
    return any(re.search(_in_a_row(form(sought)), form(said)) for said in texts for form in (str, _closed))


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


def _said(text: str, articles: bool = False) -> str:
    """The words by which an answer is graded, with a space between; "_" stands between the parts of a compound."""
    said = _common(text)
    said = (said if articles else _BEFORE_A_WORD.sub(" ", said)).casefold()
    for sign, meaning in _MEANING:
        said = sign.sub(meaning, said)
    return " ".join(words(_WITHIN.sub(_MARK, said).translate(_NO_SIGNS).replace(_MARK, " _ ")))


def _closed(said: str) -> str:
    """What was said, with compounds of letters as one word."""
    return re.sub(r"(?<=[^\W\d_]) _ (?=[^\W\d_])", "", said)


def _in_a_row(sought: str) -> str:
    """A pattern of words in a row, of which the first and the last are no parts of a larger compound or number."""
    parts = [re.escape(word) for word in sought.split() if word != "_"]
    positive = "" if parts[0] == "minus" else "(?<!minus )"
    return rf"(?<!\S)(?<!_ ){positive}{'(?: _)? '.join(parts)}(?!\S)(?! _)"


def _words(text: str) -> list[str]:
    """The words of an answer, with a compound, a range and a number with its sign as one each."""
    return re.sub(r"\bminus (?=\d)", "minus", _closed(_said(text)).replace(" _ ", "to")).split()


def _common(text: str) -> str:
    """A text with each letter in its common form and none of no width."""
    letters = unicodedata.normalize("NFKC", text)
    return "".join(letter for letter in letters if unicodedata.category(letter) != "Cf")


def _f1(said: Sequence[str], known: Sequence[str]) -> float:
    both = (Counter(said) & Counter(known)).total()
    return 2 * both / (len(said) + len(known)) if both else 0.0

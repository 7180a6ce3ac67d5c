"""Documents cut into passages: what is retrieved, shown and quoted."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ratchet.bootstrap.worlds.world import COMBINING, UNSPACED, Document, sentences

LONGEST_WORD = 32
"""Letters of a word, on average, beyond which a passage of words is cut by its letters: addresses, data, genomes."""
REPEATED, LONGEST_REPEATED = 0.25, 0.5
"""The share of its words that a passage may repeat of the one before: of several sentences, and of a single one."""

_PIECE = re.compile(rf"\s*(?:[{UNSPACED}]{{1,2}}[{COMBINING}]*[^\w\s{UNSPACED}]*|[^\s{UNSPACED}]+)")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\Z")
_ENDED = re.compile(r"[.!?．…。｡！？؟۔।॥།။។][^\w.!?]*\Z")
_PASSAGE_ID = re.compile(r"#\d+$")


class Part(NamedTuple):
    """A sentence of a text, or a part of a long one: `text[start:end]`, with how many words, and whether it begins a
    sentence."""

    start: int
    end: int
    words: int
    begins: bool


def passages_of(
    documents: Iterable[Document], words: int, fits: Callable[[str], bool] = lambda text: True
) -> list[Document]:
    """Cuts documents longer than `words` words into passages with the ids `doc#0`, `doc#1` and so on.

    A passage ends with a sentence and begins with the last ones of the passage before, where they are short enough; a
    sentence that is too long is cut between words. Its meta has that of the document, and where in the document's text
    it stands: `start` and `end`. Two letters of a script without spaces count as a word, with the marks that belong to
    them, and no passage has more letters than so many words of LONGEST_WORD letters. Where a passage of a document does
    not fit, its passages are half as long, and so on until all do or each is a word.

    A shorter document is its own passage, unless its id is like a passage's: then it is passage 0 of itself, so that no
    two passages have one id.
    """
    made = []
    for document in documents:
        most = words
        spans = _spans(document.text, most)
        while most > 1 and not all(fits(document.text[start:end]) for start, end in spans):
            most //= 2
            spans = _spans(document.text, most)
        whole = spans == [(0, len(document.text))]
        own = whole and not _PASSAGE_ID.search(document.id) and "document" not in document.meta
        for number, (start, end) in enumerate(spans):
            meta = document.meta | {"start": str(start), "end": str(end)}
            id = document.id if own else f"{document.id}#{number}"
            made.append(Document(id, document.text[start:end], meta if own else meta | {"document": document.id}))
    return made


def _spans(text: str, words: int) -> list[tuple[int, int]]:
    """Where the passages of a text start and end; the whole text, when it is short enough."""
    if len(text) <= words * LONGEST_WORD and len(_PIECE.findall(text)) <= words:
        return [(0, len(text))]
    parts = [part for start, end in _sentences(text) for part in _cut(text, start, end, words)]
    found, first = [], 0
    while first < len(parts):
        last = first + 1
        while last < len(parts) and _holds(parts[first : last + 1], words):
            last += 1
        found.append((parts[first].start, parts[last - 1].end))
        first = _again(parts, first, last, words)
    return found


def _again(parts: Sequence[Part], first: int, last: int, words: int) -> int:
    """The part with which the passage after parts `[first, last)` begins."""
    begin = last
    for start in range(last - 1, first if last < len(parts) else last, -1):
        said = sum(part.words for part in parts[start:last])
        most = LONGEST_REPEATED if start == last - 1 else REPEATED
        if said > most * words or not _holds(parts[start : last + 1], words):
            break
        begin = start if parts[start].begins else begin
    return begin


def _holds(parts: Sequence[Part], words: int) -> bool:
    """Whether a passage of so many words has room for consecutive parts of a text."""
    return sum(p.words for p in parts) <= words and parts[-1].end - parts[0].start <= words * LONGEST_WORD


def _sentences(text: str) -> Iterator[tuple[int, int]]:
    """The sentences of each paragraph. A line that no sign ends goes on in the next one."""
    at = 0
    for blank in _BLANK_LINE.finditer(text):
        paragraph, start = text[at : blank.start()], None
        steps = sentences(paragraph)
        for step in steps:
            start = step.start if start is None else start
            follows = paragraph[step.end : step.end + 1]
            goes_on = follows.isascii() and follows.isalnum()  # as in "example.com"
            if step is steps[-1] or (_ENDED.search(paragraph, step.start, step.end) and not goes_on):
                yield at + start, at + step.end
                start = None
        at = blank.end()


def _cut(text: str, start: int, end: int, words: int) -> Iterator[Part]:
    """A sentence in parts of at most so many words and letters; as it is, when it is short enough."""
    pieces, longest = list(_PIECE.finditer(text, start, end)), words * LONGEST_WORD
    for at in range(0, len(pieces), words):
        some = pieces[at : at + words]
        for begin in range(some[0].start(), some[-1].end(), longest):
            part = text[begin : min(begin + longest, some[-1].end())]
            if said := part.strip().lstrip("\ufeff").lstrip():  # a mark that a sentence without a space before it has
                left = begin + part.index(said)
                count = len(some) if len(part) < longest else words
                yield Part(left, left + len(said), count, left == start)

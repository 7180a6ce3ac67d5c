"""BM25 over passages, for the teacher's context and the `lookup` tool."""

import contextlib
import logging
import re
import sys
import unicodedata
from array import array
from collections.abc import Iterator, Sequence

import numpy as np

from ratchet.bootstrap.worlds.world import COMBINING, UNSPACED, Document


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, a module cannot be imported."""
    there = sys.modules.get(name)
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update({name: there} if there else {})


with _without("jax.lax"):  # bm25s takes an accelerator when it is imported, if it finds JAX, and ranks nothing here
    import bm25s
    from bm25s.stopwords import STOPWORDS_EN_PLUS
    from bm25s.tokenization import Tokenized

logging.getLogger("bm25s").setLevel(logging.ERROR)  # it logs every index that it builds, for whoever logs anything

STOPWORDS = frozenset(STOPWORDS_EN_PLUS)
"""English words that tell nothing of what a text is about."""
BATCH = 20_000
"""Passages whose words are held in memory together while an index is made."""

_PAIRED = f"{UNSPACED}\uac00-\ud7a3"
"""Letters that are indexed in pairs: beside scripts without spaces Korean's, whose nouns carry their particles."""
_RUN = re.compile(f"[{_PAIRED}]+")
_WORD = rf"\w[\w{COMBINING}]+|[{_PAIRED}]+"


class Index:
    """BM25 (Lucene's variant) over the passages of a corpus. Ties go to the earlier passage.

    A script without spaces is indexed by its letters and by pairs of them, and so is Korean. Where a corpus or a query
    has no words but stop words, the passages are found in their order.
    """

    def __init__(self, passages: Sequence[Document]):
        if not passages:
            raise ValueError("documents: there is no text to index; set --documents.path to a place with text in it")
        self.passages = tuple(passages)
        ids, vocabulary = [], {}
        for start in range(0, len(passages), BATCH):
            for words in _words([p.text for p in passages[start : start + BATCH]]):
                ids.append(array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words]))
        self._bm25 = bm25s.BM25() if vocabulary else None
        if self._bm25:
            self._bm25.index(Tokenized(ids, vocabulary), show_progress=False)
        self._of: dict[str, list[int]] = {}
        for number, passage in enumerate(passages):
            self._of.setdefault(passage.document_id, []).append(number)

    def search(
        self, query: str, count: int, *, twice: str = "", skip: Sequence[str] = (), within: float = 0.0
    ) -> list[Document]:
        """Finds the best `count` passages for a query, best first, without those whose id is in `skip`.

        The words of `twice` count twice. `within`: only passages that score at least this share of the best one.
        """
        scores = self._scores(f"{query} {twice} {twice}")
        ranked = _ranked(scores, count + len(skip))
        near = [i for i in ranked if scores[i] >= within * scores[ranked[0]]]
        return [self.passages[i] for i in near if self.passages[i].id not in skip][:count]

    def of(self, document_id: str, query: str) -> list[Document]:
        """All passages of a document, the best for a query first; none of a document that is not in the corpus."""
        scores = self._scores(query)
        return [self.passages[i] for i in sorted(self._of.get(document_id, ()), key=lambda i: -scores[i])]

    def _scores(self, query: str) -> np.ndarray:
        words = _words([query])[0]
        return self._bm25.get_scores(words) if self._bm25 and words else np.zeros(len(self.passages), np.float32)


def _words(texts: list[str]) -> list[list[str]]:
    """The words of each text but for stop words, and of letters that are indexed in pairs each letter and each pair.
    Letters that are spelled by several signs, as files of macOS have them, are put together (NFC)."""
    whole = [unicodedata.normalize("NFC", text) for text in texts]
    spaced = [_RUN.sub(lambda run: f" {' '.join(_letters_and_pairs(run[0]))} ", text) for text in whole]
    ids = bm25s.tokenize(spaced, stopwords="en", token_pattern=_WORD, show_progress=False, return_ids=False)
    return [list(words) for words in ids]


def _letters_and_pairs(run: str) -> list[str]:
    return [*run, *(run[i : i + 2] for i in range(len(run) - 1))]


def _ranked(scores: np.ndarray, count: int) -> np.ndarray:
    """The places of the highest scores, the highest first; of those that are equal, the earlier ones."""
    least = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    above, ties = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
    return np.concatenate([above[np.argsort(-scores[above], kind="stable")], ties])[:count]

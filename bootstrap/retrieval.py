"""BM25 over passages, for the teacher's context and the `lookup` tool."""

from collections.abc import Sequence

import bm25s
import numpy as np

from ratchet.bootstrap.transcript import Document


class Index:
    """BM25 (Lucene's variant) over the passages of a corpus. Ties go to the earlier passage."""

    def __init__(self, passages: Sequence[Document]):
        if not passages:
            raise ValueError("documents: there is no text to index; give a folder with .txt files in it")
        self.passages = tuple(passages)
        self._bm25 = bm25s.BM25()
        self._bm25.index(_words([p.text for p in passages]), show_progress=False)

    def search(self, query: str, count: int, *, skip: Sequence[str] = (), within: float = 0.0) -> list[Document]:
        """The best `count` passages for a query, best first, without those whose id is in `skip`.

        `within`: only those that score at least this share of the best.
        """
        scores = self._bm25.get_scores(_words([query])[0])
        ranked = np.argsort(-scores, kind="stable")[: count + len(skip)]
        near = [i for i in ranked if scores[i] >= within * scores[ranked[0]]]
        return [self.passages[i] for i in near if self.passages[i].id not in skip][:count]


def _words(texts: list[str]) -> list[list[str]]:
    ids = bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False)
    return [list(words) for words in ids]

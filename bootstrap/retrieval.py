"""BM25 over passages, for the teacher's context and the `lookup` tool."""

from collections.abc import Sequence

import bm25s
import numpy as np

from ratchet.bootstrap.worlds.world import Document


class Index:
    """BM25 (Lucene's variant) over the passages of a corpus. Ties go to the earlier passage."""

    def __init__(self, passages: Sequence[Document]):
        if not passages:
            raise ValueError("documents: there is no text to index; give a folder with .txt files in it")
        self.passages = tuple(passages)
        self._bm25 = bm25s.BM25()
        self._bm25.index(_words([p.text for p in passages]), show_progress=False)

    def search(
        self, query: str, count: int, *, twice: str = "", skip: Sequence[str] = (), within: float = 0.0
    ) -> list[Document]:
        """Finds the best `count` passages for a query, best first, without those whose id is in `skip`.

        The words of `twice` count twice. `within`: only passages that score at least this share of the best one.
        """
        scores = self._bm25.get_scores(_words([f"{query} {twice} {twice}"])[0])
        ranked = np.argsort(-scores, kind="stable")[: count + len(skip)]
        near = [i for i in ranked if scores[i] >= within * scores[ranked[0]]]
        return [self.passages[i] for i in near if self.passages[i].id not in skip][:count]


def passages_of(documents: Sequence[Document], words: int) -> list[Document]:
    """Leaves documents of at most `words` words as they are; longer ones become consecutive passages with the ids
    `doc#0`, `doc#1` and so on."""
    made = []
    for document in documents:
        split = document.text.split()
        if len(split) <= words:
            made.append(document)
            continue
        for number, start in enumerate(range(0, len(split), words)):
            text = " ".join(split[start : start + words])
            made.append(Document(f"{document.id}#{number}", text, document.meta | {"document": document.id}))
    return made


def _words(texts: list[str]) -> list[list[str]]:
    ids = bm25s.tokenize(texts, stopwords="en", show_progress=False, return_ids=False)
    return [list(words) for words in ids]

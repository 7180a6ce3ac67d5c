"""BM25 over passages, for the teacher's context and the `lookup` tool."""

import re
from collections.abc import Sequence

import bm25s
import numpy as np

from ratchet.bootstrap.worlds.world import Document

UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Tibetan, Myanmar
    "\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\uaa80-\uaadf\u1b00-\u1b7f\ua980-\ua9df"  # Khmer, Tai, Balinese, Javanese
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # ideographs
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f\U0001b000-\U0001b16f"  # kana, bopomofo
)
"""Letters, as a class of regular expressions, of scripts that are written without spaces between words."""
LONGEST_WORD = 32
"""Letters of a word, on average, beyond which a passage of words is cut by its letters: addresses, data, genomes."""

_RUN = re.compile(f"[{UNSPACED}]+")
_PIECE = re.compile(rf"\s*(?:[{UNSPACED}]{{1,2}}[^\w\s{UNSPACED}]*|[^\s{UNSPACED}]+)")
_WORD = rf"(?u)\b\w\w+\b|[{UNSPACED}]+"
_PASSAGE_ID = re.compile(r"#\d+$")


class Index:
    """BM25 (Lucene's variant) over the passages of a corpus. Ties go to the earlier passage.

    A script without spaces is indexed by its letters and by pairs of them. Where a corpus or a query has no words but
    stop words, the passages are found in their order.
    """

    def __init__(self, passages: Sequence[Document]):
        if not passages:
            raise ValueError("documents: there is no text to index; give a folder with .txt files in it")
        self.passages = tuple(passages)
        words = _words([p.text for p in passages])
        self._bm25 = bm25s.BM25() if any(words) else None
        if self._bm25:
            self._bm25.index(words, show_progress=False)
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
        ranked = np.argsort(-scores, kind="stable")[: count + len(skip)]
        near = [i for i in ranked if scores[i] >= within * scores[ranked[0]]]
        return [self.passages[i] for i in near if self.passages[i].id not in skip][:count]

    def of(self, document_id: str, query: str) -> list[Document]:
        """All passages of a document, the best for a query first; none of a document that is not in the corpus."""
        scores = self._scores(query)
        return [self.passages[i] for i in sorted(self._of.get(document_id, ()), key=lambda i: -scores[i])]

    def _scores(self, query: str) -> np.ndarray:
        words = _words([query])[0]
        return self._bm25.get_scores(words) if self._bm25 and words else np.zeros(len(self.passages), np.float32)


def passages_of(documents: Sequence[Document], words: int) -> list[Document]:
    """Cuts documents longer than `words` words into consecutive passages with the ids `doc#0`, `doc#1` and so on.

    Two letters of a script without spaces count as a word, and no passage has more letters than so many words of
    LONGEST_WORD letters. A shorter document is its own passage, unless its id is like a passage's: then it is passage 0
    of itself, so that no two passages have one id.
    """
    made = []
    for document in documents:
        parts = _parts(document.text, words)
        if parts == [document.text] and not _PASSAGE_ID.search(document.id) and "document" not in document.meta:
            made.append(document)
            continue
        for number, text in enumerate(parts):
            made.append(Document(f"{document.id}#{number}", text, document.meta | {"document": document.id}))
    return made


def _parts(text: str, words: int) -> list[str]:
    """A text in parts of at most `words` words; as it is, when it is short enough."""
    pieces, most = _PIECE.findall(" ".join(text.split())), words * LONGEST_WORD
    if len(pieces) <= words and len(text) <= most:
        return [text]
    parts = ["".join(pieces[i : i + words]).strip() for i in range(0, len(pieces), words)]
    return [part[i : i + most] for part in parts for i in range(0, len(part), most)]


def _words(texts: list[str]) -> list[list[str]]:
    """The words of each text but for stop words; a run of a script without spaces gives its letters and their pairs."""
    spaced = [_RUN.sub(lambda run: f" {' '.join(_letters_and_pairs(run[0]))} ", text) for text in texts]
    ids = bm25s.tokenize(spaced, stopwords="en", token_pattern=_WORD, show_progress=False, return_ids=False)
    return [list(words) for words in ids]


def _letters_and_pairs(run: str) -> list[str]:
    return [*run, *(run[i : i + 2] for i in range(len(run) - 1))]

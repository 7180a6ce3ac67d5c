"""Which documents say nearly the same as an earlier one."""

import functools
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from rensa import RMinHash, RMinHashLSH

from ratchet.bootstrap.worlds.world import Document, words

ALIKE = 0.95
"""The share of three words in a row that two documents have in common from which on they say nearly the same."""
PERMUTATIONS, BANDS = 128, 8
"""Documents that are as alike share one of so many bands in 99 of 100 cases, those that are half as alike in one of
8,000."""
BATCH, LETTERS = 10_000, 20_000_000
"""Documents that are sketched together, and letters of them."""
COMPARED = 64
"""Earlier documents, the latest ones, that one is compared with."""


def firsts(documents: Sequence[Document]) -> Iterator[Document | None]:
    """For each document the earlier one that it nearly repeats, or None.

    Capitals, signs and white space make no difference. Texts that are the same but for those are always found; for
    others MinHash finds candidates, which are then compared word by word. A document that repeats another is not
    compared with further ones.
    """
    index, same = RMinHashLSH(ALIKE, PERMUTATIONS, BANDS), {}
    repeats = np.zeros(len(documents), bool)
    said = functools.lru_cache(2 * COMPARED)(lambda number: _hashed(_trigrams(documents[number].text)))
    for start, end in _batches(documents):
        sets = [_trigrams(d.text) for d in documents[start:end]]
        matrix = RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, 0)
        flags = index.insert_matrix_and_query_duplicate_flags(matrix, start)
        for number, (own, flag) in enumerate(zip(sets, flags, strict=True), start):
            key = hashlib.blake2b("\n".join(own).encode(), digest_size=8).digest()
            first = same.setdefault(key, number)
            if first == number and flag:
                (sketch,) = RMinHash.from_token_sets([own], PERMUTATIONS, 0)
                found = np.array(index.query(sketch), int)
                near = np.sort(found[(found < number) & ~repeats[found]])[-COMPARED:]
                alike = (n for n in near.tolist() if _are_alike(said(number), said(n)))
                first = same[key] = next(alike, number)
            repeats[number] = first != number
            yield documents[first] if repeats[number] else None


def _batches(documents: Sequence[Document]) -> Iterator[tuple[int, int]]:
    """Where each batch begins and ends: long documents are few in one, whose trigrams take ten times their memory."""
    start, letters = 0, 0
    for number, document in enumerate(documents):
        if number > start and (number == start + BATCH or letters + len(document.text) > LETTERS):
            yield start, number
            start, letters = number, 0
        letters += len(document.text)
    if start < len(documents):
        yield start, len(documents)


def _trigrams(text: str) -> list[str]:
    """Every three words in a row, in small letters; a text without words, such as one in Braille, is one of its own."""
    said = words(text.lower()) or (text.strip(),)
    return [" ".join(said[i : i + 3]) for i in range(max(1, len(said) - 2))]


def _hashed(trigrams: Sequence[str]) -> np.ndarray:
    """Each of them once, as a number."""
    return np.unique(np.fromiter(map(hash, trigrams), np.int64, len(trigrams)))


def _are_alike(one: np.ndarray, other: np.ndarray) -> bool:
    fewer, more = sorted((len(one), len(other)))
    if fewer < ALIKE * more:
        return False
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both >= ALIKE * (fewer + more - both)

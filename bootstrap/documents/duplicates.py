"""Which documents say nearly the same as an earlier one."""

import hashlib
from collections.abc import Iterator, Sequence

from rensa import RMinHash, RMinHashLSH

from ratchet.bootstrap.worlds.world import Document, words

ALIKE = 0.95
"""The share of three words in a row that two documents have in common from which on they say nearly the same."""
PERMUTATIONS, BANDS = 128, 8
"""Documents that are as alike share one of so many bands in 99 of 100 cases, those that are half as alike in one of
8,000."""
BATCH = 10_000
"""Documents that are sketched together."""
COMPARED = 64
"""Earlier documents, the latest ones, that one is compared with."""


def firsts(documents: Sequence[Document]) -> Iterator[Document | None]:
    """For each document the earlier one that it nearly repeats, or None.

    Capitals, signs and white space make no difference. Texts that are the same but for those are always found; for
    others MinHash finds candidates, which are then compared word by word. A document that repeats another is not
    compared with further ones.
    """
    index, same = RMinHashLSH(ALIKE, PERMUTATIONS, BANDS), {}
    repeats = bytearray(len(documents))
    for start in range(0, len(documents), BATCH):
        sets = [_trigrams(d.text) for d in documents[start : start + BATCH]]
        matrix = RMinHash.digest_matrix_from_token_sets(sets, PERMUTATIONS, 0)
        flags = index.insert_matrix_and_query_duplicate_flags(matrix, start)
        for number, (own, flag) in enumerate(zip(sets, flags, strict=True), start):
            key = hashlib.blake2b("\n".join(own).encode(), digest_size=8).digest()
            first = same.setdefault(key, number)
            if first == number and flag:
                (sketch,) = RMinHash.from_token_sets([own], PERMUTATIONS, 0)
                near = [n for n in sorted(index.query(sketch)) if n < number and not repeats[n]]
                alike = (n for n in near[-COMPARED:] if _share(own, _trigrams(documents[n].text)) >= ALIKE)
                first = same[key] = next(alike, number)
            repeats[number] = first != number
            yield documents[first] if repeats[number] else None


def _trigrams(text: str) -> list[str]:
    """Every three words in a row, in small letters."""
    said = words(text.lower())
    return [" ".join(said[i : i + 3]) for i in range(max(1, len(said) - 2))]


def _share(one: Sequence[str], other: Sequence[str]) -> float:
    return len({*one} & {*other}) / len({*one, *other})

"""Where training would teach a text token for token.

What is compared is what the loss reads: the tokens that are fed and those that the targets put their mass on. A copy
may be continued from a prompt that carries its beginning, have holes in its weights, or be cut into many examples. One
with other tokens in it, fewer than GRAM apart, is not found.

R is the number of tokens of all readings together, T that of all texts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from ratchet.bootstrap.examples import exchanged
from ratchet.train.records import Example

GRAM = 8
"""Tokens in a row that make a copy: more than true statements of an answer share with a text."""
PIECE = 3
"""Tokens in a row that are a piece of a copy, of which there may be more in other examples."""
MOSTLY = 0.5
"""The share of an example's weight from which on its pieces count: a quotation within an answer does not."""
LIKELY = 0.25
"""The share of a target from which on an id is read as what is taught there."""
_BETWEEN_TEXTS, _BETWEEN_READINGS = -1, -2


class Texts:
    """Token sequences in which windows of tokens are sought."""

    def __init__(self, texts: Iterable[Sequence[int]]):
        self.tokens_T = _joined(texts, _BETWEEN_TEXTS)
        self._windows: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def places(self, sought: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """For each hash of a window of so many tokens, the first and the end of its places in `order(length)`."""
        hashes = self._sorted(length)[0]
        return np.searchsorted(hashes, sought, "left"), np.searchsorted(hashes, sought, "right")

    def holds(self, sought: np.ndarray, length: int) -> np.ndarray:
        """For each hash of a window of so many tokens, whether it is in a text."""
        first, last = self.places(sought, length)
        return last > first

    def order(self, length: int) -> np.ndarray:
        """The starts of all windows of a length in `tokens_T`, sorted so that equal windows are neighbours."""
        return self._sorted(length)[1]

    def _sorted(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        if length not in self._windows:
            hashes = _hashes(self.tokens_T, length)
            order = np.argsort(hashes, kind="stable")
            self._windows[length] = hashes[order], order
        return self._windows[length]


class Readings(NamedTuple):
    """Every way in which examples are read, one after another.

    `tokens_R` are the ids that are said, `weights_R` their weights in the loss, and `at_R` says which token of which
    example each is, counted over all examples. `others` are the other ids that the targets make likely: those of place
    r are `others[ends_R[r - 1] : ends_R[r]]`.
    """

    tokens_R: np.ndarray
    weights_R: np.ndarray
    at_R: np.ndarray
    others: np.ndarray
    ends_R: np.ndarray

    @property
    def weighted_R(self) -> np.ndarray:
        """Which tokens are trained on."""
        return self.weights_R > 0


class Found(NamedTuple):
    """Windows that are in a text: where each begins in the readings, and the hash of the ids that it was read as."""

    starts: np.ndarray
    hashes: np.ndarray


def readings(examples: Sequence[Example], likely: float = LIKELY) -> Readings:
    """What examples say, and ids with so large a share of their targets, under the names that they have and had."""
    parts, start = [], 0
    for e in examples:
        at = np.arange(start, start + len(e.tokens))
        counts, others = _others(e, likely)
        names = [(b, a) for a, b in e.lineage.get("renamed", ())]
        for pairs in [(), names] if names else [()]:
            parts.append((exchanged(e.tokens, pairs), e.weights, at, exchanged(others, pairs), counts))
        start += len(e.tokens)
    tokens, weights, places, others, counts = zip(*parts, strict=True) if parts else ((), (), (), (), ())
    return Readings(
        _joined(tokens, _BETWEEN_READINGS),
        _joined(weights, 0.0),
        _joined(places, -1),
        np.concatenate([np.zeros(0, np.int64), *others]),
        np.cumsum(_joined(counts, 0)),
    )


def _others(e: Example, likely: float) -> tuple[np.ndarray, np.ndarray]:
    """How many likely ids each token [T] has beside itself, and these ids."""
    said = e.tokens[e.weights > 0]
    found = (e.probs >= likely) & (e.ids != said[:, None])
    counts = np.zeros(len(e.tokens), np.int64)
    counts[e.weights > 0] = found.sum(axis=1)
    return counts, e.ids[found]


def copied(
    examples: Sequence[Example], texts: Texts, allowed: Sequence[Texts] = (), likely: float = LIKELY, gram: int = GRAM
) -> np.ndarray:
    """[examples]: how many weighted tokens of each example teach one of the texts, in ids with so large a share.

    They lie in windows of `gram` tokens, at least one of them weighted, that are in a text, and in none that is
    allowed.
    """
    read, ends = readings(examples, likely), _ends(examples)
    return _by_example(_copies(read, texts, ends, allowed, gram), ends)


def copied_and_pieces(
    examples: Sequence[Example], texts: Texts, allowed: Sequence[Texts] = (), gram: int = GRAM
) -> tuple[np.ndarray, np.ndarray]:
    """[examples] twice: how many weighted tokens of each example teach one of the texts, as `copied` counts them, and
    how many others are pieces of a copy.

    Pieces lie in windows of PIECE tokens in examples that hold little else, where those of all examples together make
    `gram` tokens of a text in a row; of ordinary prose, some sentences are pieces by chance. Where texts are allowed,
    pieces are twice as long, since such texts hold most short ones.
    """
    read, ends = readings(examples), _ends(examples)
    whole = _copies(read, texts, ends, allowed, gram)
    no_copy_R = ~np.append(whole, False)[read.at_R]  # what is appended stands for separators, which are at -1
    rest = read._replace(weights_R=np.where(no_copy_R, read.weights_R, 0))
    parts = _taught(rest, _pieces(rest, texts, ends, allowed, gram), ends)
    return _by_example(whole, ends), _by_example(parts, ends)


def _ends(examples: Sequence[Example]) -> np.ndarray:
    return np.cumsum([len(e.tokens) for e in examples], dtype=np.int64)


def _by_example(of_tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums over the tokens of each example."""
    return np.diff(np.concatenate([[0], np.cumsum(of_tokens)])[np.concatenate([np.zeros(1, np.int64), ends])])


def _taught(read: Readings, inside_R: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which tokens of all examples are weighted and lie inside in any reading."""
    found = np.zeros(ends[-1] if len(ends) else 0, bool)
    found[read.at_R[inside_R & read.weighted_R]] = True
    return found


def _copies(read: Readings, texts: Texts, ends: np.ndarray, allowed: Sequence[Texts], gram: int) -> np.ndarray:
    starts = _windows(read, texts, gram, allowed).starts
    return _taught(read, _covered(starts, gram, len(read.tokens_R)), ends)


def _windows(read: Readings, texts: Texts, length: int, allowed: Sequence[Texts]) -> Found:
    """The windows with weight that are in a text, and in no allowed one, in each way that they can be read.

    At every token that has other likely ids a window is read in several ways; those whose first PIECE tokens are in no
    text are dropped at once, so that there are never many.
    """
    starts = np.flatnonzero(_sums(read.weighted_R, length) > 0)
    hashes = np.zeros(len(starts), np.uint64)
    counts_R = np.diff(read.ends_R, prepend=0)
    for offset in range(length):
        places = starts + offset
        more = counts_R[places]
        ids = [read.tokens_R[places], read.others[_ranges(read.ends_R[places] - more, more)]]
        starts = np.concatenate([starts, np.repeat(starts, more)])
        hashes = _mixed(np.concatenate([hashes, np.repeat(hashes, more)]), np.concatenate(ids))
        if offset + 1 in (PIECE, length):
            known = texts.holds(hashes, offset + 1)
            starts, hashes = starts[known], hashes[known]
    for other in allowed:
        new = ~other.holds(hashes, length)
        starts, hashes = starts[new], hashes[new]
    return Found(starts, hashes)


def _pieces(read: Readings, texts: Texts, ends: np.ndarray, allowed: Sequence[Texts], gram: int) -> np.ndarray:
    """Which tokens [R] belong to copies that are spread over examples."""
    length = 2 * PIECE if allowed else PIECE
    found = _windows(read, texts, length, allowed)
    inside_R = _covered(found.starts, length, len(read.tokens_R)) * read.weights_R
    owner_R = np.searchsorted(ends, read.at_R, "right")  # separators, at -1 and without weight, go to the first
    total, inside = (np.bincount(owner_R, of_R, len(ends)) for of_R in (read.weights_R, inside_R))
    mostly = (inside >= MOSTLY * total)[owner_R[found.starts]]
    starts, (first, last) = found.starts[mostly], texts.places(found.hashes[mostly], length)
    counts = last - first
    place = texts.order(length)[_ranges(first, counts)]
    covered_T = _covered(place, length, len(texts.tokens_T))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered_T, [0]]).astype(np.int8)))
    long_T = np.zeros(len(texts.tokens_T), bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        long_T[start:end] = end - start >= gram
    return _covered(np.repeat(starts, counts)[long_T[place]], length, len(read.tokens_R))


def _ranges(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For every first number and count, the numbers first, first + 1, ... in turn: [5, 9], [2, 1] → [5, 6, 9]."""
    return np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)


def _joined(parts: Iterable[Sequence[float]], between: float) -> np.ndarray:
    """Sequences as one, each followed by a separator."""
    separator = np.array([between])  # which makes ids of any width signed and 64 bits wide
    made = [piece for part in parts for piece in (part, separator)]
    return np.concatenate(made) if made else np.zeros(0, np.int64)


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of each window of so many tokens; none for sequences that are shorter."""
    count = max(0, len(tokens) - length + 1)
    made = np.zeros(count, np.uint64)
    for offset in range(length):
        made = _mixed(made, tokens[offset : offset + count])
    return made


def _mixed(hashes: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The hashes of windows with one more token each."""
    made = (hashes ^ ids.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    return made ^ made >> np.uint64(29)


def _sums(values: np.ndarray, length: int) -> np.ndarray:
    """The sum of each window of so many values."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[length:] - total[: max(0, len(total) - length)]


def _covered(starts: np.ndarray, length: int, size: int) -> np.ndarray:
    """Which of `size` places lie in windows of a length that begin at `starts`."""
    edges = np.zeros(size + 1, np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    return np.cumsum(edges)[:size] > 0

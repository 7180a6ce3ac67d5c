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

    def places(self, tokens_R: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """For each start of a window of so many tokens, the first and the end of its places in `order(length)`."""
        sought, (hashes, _) = _hashes(tokens_R, length), self._sorted(length)
        return np.searchsorted(hashes, sought, "left"), np.searchsorted(hashes, sought, "right")

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

    `tokens_R` are the ids, `weights_R` their weights in the loss, and `at_R` says which token of which example each is,
    counted over all examples.
    """

    tokens_R: np.ndarray
    weights_R: np.ndarray
    at_R: np.ndarray

    @property
    def weighted_R(self) -> np.ndarray:
        """Which tokens are trained on."""
        return self.weights_R > 0


def readings(examples: Sequence[Example]) -> Readings:
    """What examples say, under the names that they have and had, and what their targets make likely."""
    parts, start = [], 0
    for e in examples:
        at = np.arange(start, start + len(e.tokens))
        parts += [(tokens, e.weights, at) for tokens in _ways(e, e.weights > 0)]
        start += len(e.tokens)
    tokens, weights, places = zip(*parts, strict=True) if parts else ((), (), ())
    return Readings(_joined(tokens, _BETWEEN_READINGS), _joined(weights, 0.0), _joined(places, 0))


def copied(examples: Sequence[Example], texts: Texts, allowed: Texts | None = None) -> np.ndarray:
    """[2, examples]: how many weighted tokens of each example teach one of the texts, as a copy or as a piece of one.

    Copies are windows of GRAM tokens that are in a text, at least one of them weighted. Pieces are shorter windows in
    examples that hold little else, where those of all examples together make GRAM tokens of a text in a row; of
    ordinary prose, some sentences are pieces by chance. Windows that are in an `allowed` text do not count, and pieces
    are twice as long then, since such texts hold most short ones.
    """
    if not examples:
        return np.zeros((2, 0), np.int64)
    read, ends = readings(examples), np.cumsum([len(e.tokens) for e in examples])
    whole_R = _covered(_windows(read, texts, GRAM, allowed), GRAM, len(read.tokens_R))
    copies, pieces = np.zeros((2, ends[-1]), bool)
    copies[read.at_R[whole_R & read.weighted_R]] = True
    rest = read._replace(weights_R=np.where(copies[read.at_R], 0, read.weights_R))  # a copy is no piece of anything
    pieces[read.at_R[_pieces(rest, texts, ends, allowed) & rest.weighted_R]] = True
    return np.add.reduceat(np.stack([copies, pieces]).astype(np.int64), np.concatenate([[0], ends[:-1]]), axis=1)


def _windows(read: Readings, texts: Texts, length: int, allowed: Texts | None) -> np.ndarray:
    """The starts of the windows with weight that are in a text, and in no allowed one."""
    first, last = texts.places(read.tokens_R, length)
    found = (last > first) & (_sums(read.weighted_R, length) > 0)
    if allowed is not None:
        first, last = allowed.places(read.tokens_R, length)
        found &= last == first
    return np.flatnonzero(found)


def _pieces(read: Readings, texts: Texts, ends: np.ndarray, allowed: Texts | None) -> np.ndarray:
    """Which tokens [R] belong to copies that are spread over examples."""
    length = PIECE if allowed is None else 2 * PIECE
    starts = _windows(read, texts, length, allowed)
    inside_R = _covered(starts, length, len(read.tokens_R)) * read.weights_R
    owner_R = np.searchsorted(ends, read.at_R, "right")  # separators count for the first example, without weight
    total, inside = (np.bincount(owner_R, of_R, len(ends)) for of_R in (read.weights_R, inside_R))
    starts = starts[(inside >= MOSTLY * total)[owner_R[starts]]]
    first, last = texts.places(read.tokens_R, length)
    first, counts = first[starts], (last - first)[starts]
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # of a place, for its start
    place = texts.order(length)[np.repeat(first, counts) + number]
    covered_T = _covered(place, length, len(texts.tokens_T))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], covered_T, [0]]).astype(np.int8)))
    long_T = np.zeros(len(texts.tokens_T), bool)
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        long_T[start:end] = end - start >= GRAM
    return _covered(np.repeat(starts, counts)[long_T[place]], length, len(read.tokens_R))


def _ways(e: Example, weighted: np.ndarray) -> list[np.ndarray]:
    """The sequences [T] that an example can be read as: what it says, and by rank the ids that its targets make likely,
    each under the names that it has and, where they were exchanged, under those that it had."""
    said, ways = e.tokens[weighted], [e.tokens]
    if ((e.ids != said[:, None]) & (e.probs >= LIKELY)).any():
        by_rank, rows = np.argsort(-e.probs, axis=1, kind="stable"), np.arange(len(said))
        for rank_N in by_rank.T[: int(1 / LIKELY)]:
            taught = e.tokens.copy()
            taught[weighted] = np.where(e.probs[rows, rank_N] >= LIKELY, e.ids[rows, rank_N], said)
            ways.append(taught)
    before = [(b, a) for a, b in e.lineage.get("renamed", ())]
    return [*ways, *(exchanged(way, before) for way in ways if before)]


def _joined(parts: Iterable[Sequence[float]], between: float) -> np.ndarray:
    """Sequences as one, each followed by a separator."""
    separator = np.array([between])  # which makes ids of any width signed and 64 bits wide
    made = [piece for part in parts for piece in (part, separator)]
    return np.concatenate(made) if made else np.zeros(0, np.int64)


def _hashes(tokens: np.ndarray, length: int) -> np.ndarray:
    """A 64-bit hash of each window of so many tokens; none for sequences that are shorter."""
    count = max(0, len(tokens) - length + 1)
    made, unsigned = np.zeros(count, np.uint64), tokens.astype(np.uint64)
    for offset in range(length):
        made = (made ^ unsigned[offset : offset + count]) * np.uint64(0x9E3779B97F4A7C15)
        made ^= made >> np.uint64(29)
    return made


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

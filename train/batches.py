"""Which examples make up step s, packed into rows: a pure function of (examples, seed, step).

Shapes: R rows, T columns, M weighted positions in a row, K kept ids.

A row holds whole examples, told apart by segment number (0 is padding); attention stays inside a segment and positions
restart. Few tokens of a row carry weight where prompts are long, so `predict` lists the columns whose hidden state
predicts one, and logits are computed for those alone.
"""

import functools
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from ratchet.models.inference import round_up
from ratchet.train.records import Example

Batch = dict[str, np.ndarray]
"""The arrays of one step by name, as `pack` makes them."""

SHORT = 2048
"""Tokens of a batch that cost an accelerator little more than fewer would, since a small model's step waits for
launches and a large one's reads its weights from memory."""
SEGMENTS = 15
"""Segments that a row may have, at least, where few shapes are wanted."""


class Batches:
    """A random-access source of training batches: `source[step]` for each of `steps` steps.

    `pools` are (examples, count) pairs: every step takes `count` examples from each pool, walking a fresh permutation
    of the pool each epoch, drawn by the `seed`. A row has so many `columns` of tokens. Rows are as many as the fullest
    step of the run needs, rounded up to the `row_multiple`, so that shapes never change, and no row of the run has more
    segments than `segments`. With `few` shapes, most runs of an arm have the same ones: rows are rounded up further, by
    a sixteenth at most, weighted positions by an eighth of the columns, kept ids to a power of two, and segments, where
    there are several, to `SEGMENTS`. Where `SHORT` tokens are not filled, rows are as many as those fill, and all
    positions of a row may be weighted.

    Raises ValueError when there are no examples, or one is longer than a row.
    """

    def __init__(self, pools: Sequence[tuple[Sequence[Example], int]], *, seed: int, steps: int, columns: int,
                 row_multiple: int = 1, few: bool = False):
        self.pools = [(list(examples), count) for examples, count in pools if examples and count]
        self.seed, self.steps, self.columns = seed, steps, columns
        longest = max((len(e.tokens) for examples, _ in self.pools for e in examples), default=0)
        if not self.pools:
            raise ValueError("training set: it is empty; look at the funnel of the review stage")
        if longest > columns:
            raise ValueError(
                f"training set: an example has {longest} tokens, rows hold {columns}; raise --train.columns"
            )
        self.keep = max(e.ids.shape[1] for examples, _ in self.pools for e in examples)
        self.lengths = [np.array([len(e.tokens) for e in examples]) for examples, _ in self.pools]
        self.weighted = [np.array([len(e.ids) for e in examples]) for examples, _ in self.pools]
        cached = functools.lru_cache(maxsize=2)  # of each pool: a little one would put out the orders of a large one
        self._orders = [cached(functools.partial(self._order, pool)) for pool in range(len(self.pools))]
        needed = np.max([self._needed(step) for step in range(steps)], axis=0)
        rows, self.predictions, self.segments = map(int, needed)
        if few and round_up(rows, row_multiple) * columns <= SHORT:
            rows, self.predictions, self.segments = SHORT // columns, columns, max(self.segments, SEGMENTS)
        if few:
            self.segments = self.segments if self.segments == 1 else max(self.segments, SEGMENTS)
            row_multiple *= _few(rows // row_multiple)
            self.predictions = min(round_up(self.predictions, -(-columns // 8)), columns)
            self.keep = 1 << (self.keep - 1).bit_length()
        self.rows = round_up(rows, row_multiple)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        return self.part(step, np.arange(self.rows))

    def part(self, step: int, rows: np.ndarray) -> Batch:
        """The given rows of a step's batch. Which example lies where does not depend on who asks."""
        picked = self.picks(step)
        chosen = [self.pools[pool][0][index] for pool, index in picked]
        place = {int(row): at for at, row in enumerate(rows)}
        mine = [
            (e, place[row])
            for e, row in zip(chosen, _first_fit([len(e.tokens) for e in chosen], self.columns), strict=True)
            if row in place
        ]
        return pack(
            [e for e, _ in mine], [row for _, row in mine], len(rows), self.columns, self.predictions, self.keep
        )

    def picks(self, step: int) -> list[tuple[int, int]]:
        """(pool, index) of every example of a step."""
        return [
            (pool, int(self._orders[pool](draw // len(examples))[draw % len(examples)]))
            for pool, (examples, count) in enumerate(self.pools)
            for draw in range(step * count, (step + 1) * count)
        ]

    def iterate(self, start: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """Batches from step `start` on, or these rows of them, prefetched by Grain."""
        own = np.arange(self.rows) if rows is None else rows
        source = grain.MapDataset.range(start, self.steps).map(lambda step: self.part(int(step), own))
        return iter(source.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))

    def _order(self, pool: int, epoch: int) -> np.ndarray:
        """A fresh order of a pool in which every step gets short and long examples alike.

        The examples are cut into as many strata of length as a step takes from the pool, and steps take one of each:
        then no step is much fuller than another, and rows sized for the fullest one are nearly full in all.
        """
        examples, count = self.pools[pool]
        rng = np.random.default_rng([self.seed, pool, epoch])
        shuffled = rng.permutation(len(examples))
        by_length = shuffled[np.argsort(self.lengths[pool][shuffled], kind="stable")]
        strata = [rng.permutation(s) for s in np.array_split(by_length, min(count, len(examples)))]
        return np.array([s[i] for i in range(len(strata[0])) for s in strata if i < len(s)])

    def _needed(self, step: int) -> tuple[int, int, int]:
        """Rows, and weighted positions and segments in the fullest row, of one step."""
        picked = self.picks(step)
        row_of = _first_fit([int(self.lengths[pool][index]) for pool, index in picked], self.columns)
        weighted = np.bincount(row_of, weights=[self.weighted[pool][index] for pool, index in picked])
        return max(row_of) + 1, int(weighted.max()), int(np.bincount(row_of).max())


def _few(rows: int) -> int:
    """The largest power of two to a multiple of which rows are rounded up by a sixteenth at most: 1 of 15 rows, 2 of 16
    to 47, 4 of 48 to 111."""
    return 1 << ((rows >> 4) + 1).bit_length() - 1


def _first_fit(lengths: Sequence[int], columns: int) -> list[int]:
    """The row of each example: longest first, into the first row with room."""
    room: list[int] = []
    rows = [0] * len(lengths)
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, left in enumerate(room) if left >= lengths[index]), len(room))
        if row == len(room):
            room.append(columns)
        room[row] -= lengths[index]
        rows[index] = row
    return rows


def pack(examples: Sequence[Example], row_of: Sequence[int], rows: int, columns: int, predictions: int,
         keep: int) -> Batch:
    """Arrays of one step: tokens, positions, segments [R, T]; predict, labels (the emitted tokens), weights, tail
    [R, M]; ids, probs [R, M, K]."""
    batch = {name: np.zeros((rows, columns), np.int32) for name in ("tokens", "positions", "segments")}
    batch |= {name: np.zeros((rows, predictions), np.int32) for name in ("predict", "labels")}
    batch |= {name: np.zeros((rows, predictions), np.float32) for name in ("weights", "tail")}
    batch |= {
        name: np.zeros((rows, predictions, keep), kind) for name, kind in (("ids", np.int32), ("probs", np.float32))
    }
    used, segment, listed = np.zeros(rows, int), np.zeros(rows, int), np.zeros(rows, int)
    for example, row in zip(examples, row_of, strict=True):
        start, end = used[row], used[row] + len(example.tokens)
        used[row], segment[row] = end, segment[row] + 1
        batch["tokens"][row, start:end] = example.tokens
        batch["positions"][row, start:end] = np.arange(end - start)
        batch["segments"][row, start:end] = segment[row]
        weighted = np.flatnonzero(example.weights)
        slots = slice(listed[row], listed[row] + len(weighted))
        listed[row] = slots.stop
        batch["predict"][row, slots] = start + weighted - 1
        batch["labels"][row, slots] = example.tokens[weighted]
        batch["weights"][row, slots] = example.weights[weighted]
        batch["tail"][row, slots] = example.tail
        batch["ids"][row, slots, : example.ids.shape[1]] = example.ids
        batch["probs"][row, slots, : example.probs.shape[1]] = example.probs
    return batch

"""Questions about contexts, answered by the next token's probabilities; a context is read once for all its questions.

Shapes: A contexts, W columns of a context, B questions, T columns of a question, V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.decoder import Cache
from models.sampler import left_pad, round_up

Tokens = tuple[int, ...]
Asked = tuple[Tokens, Tokens]
"""Context, which may be empty, and question."""


@dataclass(frozen=True)
class Scorer:
    """Asks in batches of `rows` questions; it compiles once for every width, in steps of `bucket`."""

    graphdef: nnx.GraphDef
    rows: int
    bucket: int = 32

    def __call__(self, params: nnx.State, asked: Sequence[Asked], answers: Tokens) -> np.ndarray:
        """Probabilities [len(asked), len(answers)] of each answer's id as the next token; equal questions run once."""
        found: dict[Asked, np.ndarray] = {}
        for contexts, batch in self._batches(asked):
            place = {context: i for i, context in enumerate(contexts)}
            width = round_up(max(map(len, contexts)), self.bucket)
            length = round_up(max(len(question) for _, question in batch), self.bucket)
            question_BT, ends_B, place_B = np.zeros((self.rows, length), np.int32), *np.zeros((2, self.rows), int)
            for row, (context, question) in enumerate(batch):
                question_BT[row, : len(question)] = question
                ends_B[row], place_B[row] = len(question) - 1, place[context]
            context_AW, real_AW = left_pad(contexts, width, self._height(len(contexts)))
            asked_of = (context_AW, real_AW, place_B, question_BT, ends_B)
            probs_BA = _ask(self.graphdef, params, *asked_of, jnp.array(answers))
            found.update(zip(batch, jax.device_get(probs_BA), strict=False))
        return np.stack([found[a] for a in asked]) if asked else np.zeros((0, len(answers)), np.float32)

    def _batches(self, asked: Sequence[Asked]) -> Iterator[tuple[list[Tokens], list[Asked]]]:
        """Contexts and questions that run together: those of a context side by side, contexts of one length too."""
        unique = sorted(set(asked), key=lambda a: (len(a[0]), a[0], len(a[1]), a[1]))
        for start in range(0, len(unique), self.rows):
            batch = unique[start : start + self.rows]
            yield list(dict.fromkeys(context for context, _ in batch)), batch

    def _height(self, contexts: int) -> int:
        """Contexts are read in one of few numbers, each of which compiles."""
        return next(rows for rows in (self.rows // 8, self.rows // 2, self.rows) if rows >= contexts)


@functools.partial(jax.jit, static_argnames="graphdef")
def _ask(graphdef, params, context_AW, real_AW, place_B, question_BT, ends_B, answers):
    """Reads the contexts, gives every question the cache of its own, and reads the questions, padded on the right."""
    model = nnx.merge(graphdef, params)
    layers, (a, w), (b, t) = model.unstacked(), context_AW.shape, question_BT.shape
    cache = model.new_cache(a, w)
    if w:
        cache = model.extend(layers, context_AW, real_AW, cache, 0)[1]
    widen = lambda x: jnp.pad(x[place_B], ((0, 0), (0, 0), (0, t), (0, 0)))
    keys, values = (tuple(map(widen, stack)) for stack in (cache.keys, cache.values))
    positions_BS = jnp.pad(cache.positions[place_B], ((0, 0), (0, t)), constant_values=-1)
    own = Cache(keys, values, tuple(x[place_B] for x in cache.last), positions_BS)
    hidden_BTD, _ = model.extend(layers, question_BT, jnp.arange(t) <= ends_B[:, None], own, w)
    logits_BV = model.logits(hidden_BTD[jnp.arange(b), ends_B], model.head_DV())
    return jax.nn.softmax(logits_BV)[:, answers]

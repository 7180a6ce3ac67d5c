"""Probabilities of answers to questions about contexts, and those of given tokens, alone or with the distributions that
they are drawn from.

A context is read once for all that follows it.

Shapes: A contexts, E what contexts begin with, L columns of that, R those of the rest, W = L + R, B questions,
T columns of a question, D width, V vocabulary, M parts of a mesh, each with contexts and questions of its own.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.models.beginnings import Prompts, lengths, split
from ratchet.models.decoder import Decoder, DecoderConfig
from ratchet.models.draw import Captured, Logs, capture, logs
from ratchet.models.inference import Inference, Weights, columns_for, deep
from ratchet.models.programs import compiled, program
from ratchet.models.readings import Reading, follow

Tokens = tuple[int, ...]
Question = tuple[Tokens, Tokens]
"""A context, which may be empty, and the question about it, as token ids: `((5, 9, 2), (7, 1))`."""


class Shared(NamedTuple):
    """What all parts of a mesh are given alike."""

    weights: Weights
    answers: jax.Array


class Batch(NamedTuple):
    """Contexts, and questions, padded on the right: where each ends, and which context of its own part it is about."""

    contexts: Prompts
    place_B: np.ndarray
    question_BT: np.ndarray
    ends_B: np.ndarray


@dataclass(frozen=True)
class Scorer(Inference):
    """Answers in batches of so many `questions`. It compiles once for every width of contexts and questions: multiples
    of `bucket`, of which accelerators use few."""

    questions: int
    bucket: int = 32

    def keeps_stacks(self, config: DecoderConfig) -> bool:
        """Whether `weights` leaves layers in their stacks, for a loop: one layer is compiled then instead of all. On a
        CPU a few layers compile at once. On a GPU loops were not tried: cuDNN's kernel asks of each layer whether it
        slides, before it is compiled. A server has layers on their own, which its sampler reads too."""
        return {"tpu": True, "gpu": False}.get(self.kernel.platform, deep(config))

    def __call__(
        self, params: nnx.State, asked: Sequence[Question], answers: Tokens,
        reached: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        """Probabilities [len(asked), len(answers)] of each answer's id as the next token; equal questions run once.

        `reached(share)` is called after each batch with the share of the questions that are answered.
        """
        found = self._run(answer_probabilities, params, asked, answers, reached)
        return np.stack([found[a] for a in asked]) if asked else np.zeros((0, len(answers)), np.float32)

    def distributions(self, params: nnx.State, given: Sequence[Question], keep: int) -> list[Captured]:
        """The distribution that each of N tokens is drawn from when it follows its context and the tokens before it.

        Of (context, tokens), with at least one token of context, these are ids and probs [N, keep], the token's own
        always among them, and tail [N], as a sampler captures them.
        """
        asked = [(context[:-1], (context[-1], *tokens)) for context, tokens in given]
        found = self._run(functools.partial(token_distributions, keep=keep), params, asked, (), whole=self.few)
        return [
            Captured(*(of_T[: len(tokens)] for of_T in found[a])) for a, (_, tokens) in zip(asked, given, strict=True)
        ]

    def log_likelihoods(
        self, params: nnx.State, given: Sequence[Question], reached: Callable[[float], None] = lambda share: None
    ) -> list[np.ndarray]:
        """The log-probability, in nats [N], of each of N tokens after its context and the tokens before it.

        There is at least one token of context; equal contexts are read once. `reached` is called as above.
        """
        asked = [(context[:-1], (context[-1], *tokens)) for context, tokens in given]
        found = self._run(token_log_probabilities, params, asked, (), reached)
        return [found[a][: len(tokens)] for a, (_, tokens) in zip(asked, given, strict=True)]

    def logs(self, params: nnx.State | Weights, texts: Sequence[Tokens], keep: int) -> list[Logs]:
        """The distributions after each of the N tokens of a text, in logarithms: the `keep` likeliest ids and their
        logs [N, keep], and the log [N] of the token that comes next; the last one's says nothing."""
        found = self._run(functools.partial(token_logs, keep=keep), params, [((), text) for text in texts], ())
        return [Logs(*(of_T[: len(text)] for of_T in found[(), text])) for text in texts]

    def _run(
        self, program: Callable, params: nnx.State | Weights, asked: Sequence[Question], answers: Tokens,
        reached: Callable[[float], None] = lambda share: None, whole: bool = False,
    ) -> dict[Question, Any]:
        """The rows that a program gives, by what was asked. The contexts of a batch have as many rows as its questions,
        or else about as many as there are."""
        assert self.questions % self.parts == 0, (self.questions, self.parts)
        assert all(question for _, question in asked), "a question has at least one token"
        if not asked:
            return {}
        found, own, count = {}, self.questions // self.parts, len(set(asked))
        shared = Shared(self.weights(params), jnp.array(answers, jnp.int32))
        config = nnx.merge(self.graphdef, shared.weights.params).config
        apart, few = self.reads_apart(config), self.compiles_long(config)
        for parts in self._batches(asked, apart):
            height = own if whole else self._height(max(len(contexts) for contexts, _ in parts))
            rows_B = jax.device_get(program(shared, self._padded(parts, height, apart, few), plan=self))
            for part, (_, questions) in enumerate(parts):
                for row, question in enumerate(questions):
                    found[question] = jax.tree.map(lambda of_B, at=part * own + row: of_B[at], rows_B)
            reached(len(found) / count)
        return found

    def _batches(
        self, asked: Sequence[Question], apart: bool
    ) -> Iterator[list[tuple[list[Tokens], list[Question]]]]:
        """What runs together: by part, contexts and questions; those of a context side by side, and contexts of one
        length too. Questions are sorted by doubling lengths before that, since all take as much as the longest."""
        contexts = list({context for context, _ in asked})
        rough = dict(zip(contexts, lengths(contexts, self.bucket, apart), strict=True))
        doubling = lambda length: max(2 * self.bucket, 1 << (length - 1).bit_length())
        unique = sorted(set(asked), key=lambda a: (doubling(len(a[1])), rough[a[0]], a[0], len(a[1]), a[1]))
        for start in range(0, len(unique), self.questions):
            batch = unique[start : start + self.questions]
            size = -(-len(batch) // self.parts)
            dealt = [batch[part * size : (part + 1) * size] for part in range(self.parts)]
            yield [(list(dict.fromkeys(context for context, _ in own)), own) for own in dealt]

    def _padded(
        self, parts: Sequence[tuple[list[Tokens], list[Question]]], height: int, apart: bool, few: bool
    ) -> Batch:
        """What `_batches` gives, as arrays; contexts have so many rows, and a `few` widths, or every one."""
        longest = lambda texts: max(map(len, texts), default=0)
        width = longest([context for contexts, _ in parts for context in contexts])
        length = longest([question for _, batch in parts for _, question in batch])
        width, length = columns_for(width, self.bucket, few), columns_for(length, self.bucket, self.few)
        own = self.questions // self.parts
        made, read = [], split([contexts for contexts, _ in parts], height, width, self.bucket, apart)
        for (contexts, batch), prompts in zip(parts, read, strict=True):
            place = {context: i for i, context in enumerate(contexts)}
            question_BT, ends_B, place_B = np.zeros((own, length), np.int32), *np.zeros((2, own), int)
            for row, (context, question) in enumerate(batch):
                question_BT[row, : len(question)] = question
                ends_B[row], place_B[row] = len(question) - 1, place[context]
            made.append(Batch(prompts, place_B, question_BT, ends_B))
        return jax.tree.map(lambda *own: np.concatenate(own), *made)

    def _height(self, contexts: int) -> int:
        """Rows for so many contexts of a part: mostly a power of two, since every number of rows is compiled for."""
        own = self.questions // self.parts
        return min(own, max(own // 8, 1 << (contexts - 1).bit_length()))

    def compile(self, weights: Weights, asked: Sequence[Question], answers: Tokens) -> None:
        """Compiles what answers questions such as these, about few contexts or many, and runs nothing. Of the weights,
        shapes with their layout are enough."""
        own, shared = self.questions // self.parts, Shared(weights, np.array(answers, np.int32))
        for width, length in self._sizes(weights, asked):
            for height in sorted({self._height(count) for count in range(1, own + 1 if width else 2)}):
                compiled(answer_probabilities, shared, self._blank(height, width, length), plan=self)

    def compile_distributions(
        self, weights: Weights, given: Sequence[Question], keep: int, reached: Callable[[], None] = lambda: None
    ) -> None:
        """Compiles what `distributions` runs for such (context, tokens) where shapes are few, and runs nothing.
        `reached` is called before each program."""
        own, shared = self.questions // self.parts, Shared(weights, np.array((), np.int32))
        asked = [(context[:-1], (context[-1], *tokens)) for context, tokens in given]
        for width, length in self._sizes(weights, asked):
            reached()
            compiled(token_distributions, shared, self._blank(own, width, length), keep=keep, plan=self)

    def _sizes(self, weights: Weights, asked: Sequence[Question]) -> Iterator[tuple[int, int]]:
        """The widths of contexts and lengths of questions that may come together in batches of such questions."""
        few = self.compiles_long(nnx.merge(self.graphdef, weights.params).config)
        widths = {columns_for(len(context), self.bucket, few) for context, _ in asked}
        lengths = {columns_for(len(question), self.bucket, self.few) for _, question in asked}
        return itertools.product(sorted(widths), sorted(lengths))

    def lowered(self, params: nnx.State, contexts: int, width: int, length: int) -> tuple[jax.stages.Lowered, tuple]:
        """A batch on a mesh with so many contexts of `width` tokens a part, and questions of `length`, for shapes of
        parameters with their layout; with the shapes of what it is made from."""
        batch = self._blank(contexts, width, length)
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.place(x)), batch)
        shared = Shared(self.shapes(params), jax.ShapeDtypeStruct((2,), jnp.int32))
        return answer_probabilities.lower(shared, batch, plan=self), (shared, batch)

    def _blank(self, contexts: int, width: int, length: int) -> Batch:
        """A batch of nothing with so many contexts of `width` tokens a part, and questions of `length`."""
        ints = lambda *columns: np.zeros((self.questions, *columns), np.int32)
        read = [split([[]], contexts, width, self.bucket, apart=False)[0]] * self.parts
        return Batch(jax.tree.map(lambda *own: np.concatenate(own), *read), ints(), ints(length), ints())


@program(static_argnames="plan")
def answer_probabilities(shared: Shared, batch: Batch, *, plan: Scorer) -> jax.Array:
    """Probabilities [B, answers], whole on every host."""
    return plan.everywhere(plan.over_parts(_answer_probabilities, whole=Shared)(shared, plan.over_rows(batch)))


@program(static_argnames=("keep", "plan"))
def token_distributions(shared: Shared, batch: Batch, *, keep: int, plan: Scorer) -> Captured:
    """Distributions [B, T, ...] of the token after each of a question's but the last, whole on every host."""
    each_part = plan.over_parts(_token_distributions, keep, whole=Shared)
    return plan.everywhere(each_part(shared, plan.over_rows(batch)))


@program(static_argnames=("keep", "plan"))
def token_logs(shared: Shared, batch: Batch, *, keep: int, plan: Scorer) -> Logs:
    """Distributions [B, T, ...] of the token after each of a question's, in logarithms, whole on every host."""
    each_part = plan.over_parts(_token_logs, keep, whole=Shared)
    return plan.everywhere(each_part(shared, plan.over_rows(batch)))


@program(static_argnames="plan")
def token_log_probabilities(shared: Shared, batch: Batch, *, plan: Scorer) -> jax.Array:
    """Log-probabilities [B, T] of the token after each of a question's but the last, whole on every host."""
    return plan.everywhere(plan.over_parts(_token_log_probabilities, whole=Shared)(shared, plan.over_rows(batch)))


def _answer_probabilities(plan: Scorer, shared: Shared, batch: Batch) -> jax.Array:
    model, hidden_BTD = _read(plan, shared, batch)
    logits_BV = model.logits(hidden_BTD[jnp.arange(len(batch.ends_B)), batch.ends_B], model.head_DV())
    return jax.nn.softmax(plan.of_tokens(logits_BV))[:, shared.answers]


def _token_distributions(plan: Scorer, keep: int, shared: Shared, batch: Batch) -> Captured:
    return _by_column(plan, shared, batch, lambda logits_BV, next_B: capture(logits_BV, next_B, keep))


def _token_logs(plan: Scorer, keep: int, shared: Shared, batch: Batch) -> Logs:
    return _by_column(plan, shared, batch, lambda logits_BV, next_B: logs(logits_BV, next_B, keep))


def _token_log_probabilities(plan: Scorer, shared: Shared, batch: Batch) -> jax.Array:
    def own(logits_BV: jax.Array, next_B: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jax.nn.log_softmax(logits_BV), next_B[:, None], axis=1)[:, 0]

    return _by_column(plan, shared, batch, own)


def _by_column(plan: Scorer, shared: Shared, batch: Batch, of: Callable) -> Any:
    """What `of` gives for the logits [B, V] at each column and the ids [B] after it, one column at a time: logits of
    all would be as large as what they are made from, times V / D."""
    model, hidden_BTD = _read(plan, shared, batch)
    head_DV, next_BT = model.head_DV(), jnp.roll(batch.question_BT, -1, axis=1)
    one = lambda column: of(plan.of_tokens(model.logits(column[0], head_DV)), column[1])
    found_TB = jax.lax.map(one, (hidden_BTD.swapaxes(0, 1), next_BT.T))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), found_TB)


def _read(plan: Scorer, shared: Shared, batch: Batch) -> tuple[Decoder, jax.Array]:
    """The model, and hidden states [B, T, D] of the questions, which are read after what contexts begin with, where
    that is read apart, and the contexts."""
    model = nnx.merge(plan.graphdef, shared.weights.params)
    layers = plan.layers(shared.weights, model.config)
    begun_EL, begun_A, rest_AR, real_AR = batch.contexts
    real_BT = jnp.arange(batch.question_BT.shape[1]) <= batch.ends_B[:, None]
    readings = [Reading(batch.question_BT, real_BT, batch.place_B)]
    if rest_AR.shape[1]:
        readings.insert(0, Reading(rest_AR, real_AR, begun_A))
    if rest_AR.shape[1] and begun_EL.shape[1]:
        readings.insert(0, Reading(begun_EL, jnp.ones(begun_EL.shape, bool), jnp.zeros(len(begun_EL), int)))
    return model, follow(model, layers, readings, plan.kernel)

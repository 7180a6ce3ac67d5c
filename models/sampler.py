"""Batched sampling with a KV cache, capturing the next-token distribution of every sampled token in the step.

Shapes: B rows, P prompt columns, N new tokens, K kept ids, V vocabulary. Prompts are padded on the left, so that all
rows write the same cache column. A request's randomness depends only on (seed, request id, position): its row and its
neighbours do not change what it says.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from models.tokenizer import PAD


@dataclass(frozen=True)
class Request:
    """A prompt to continue. `id` seeds its randomness and must be unique within a call's seed."""

    id: int
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Sampled:
    """What was sampled, without the stop token; `finished` is False when the length limit cut it off.

    tokens: int32 [N]; ids, probs: [N+1, K] when finished (the stop token's own position included), else [N, K];
    tail: the mass outside the kept ids. Distributions are taken before the sampling temperature.
    """

    tokens: np.ndarray
    finished: bool
    stop: int
    ids: np.ndarray
    probs: np.ndarray
    tail: np.ndarray


class Sampler:
    """Samples requests in batches of `slots` rows, longest prompts first, one compile per prompt bucket."""

    def __init__(self, graphdef: nnx.GraphDef, *, slots: int, new_tokens: int, keep: int, bucket: int = 32):
        self.graphdef, self.slots, self.new_tokens = graphdef, slots, new_tokens
        self.keep, self.bucket = keep, bucket

    def __call__(
        self,
        params: nnx.State,
        requests: Sequence[Request],
        *,
        seed: int,
        temperature: float,
        stop: tuple[int, ...],
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Sampled]:
        """Continues every request, in the order given. `advance(n)` is told of n more finished requests.

        Temperature 0 is greedy. Sampling ends at any id of `stop`.
        """
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].prompt), i))
        results: list[Sampled | None] = [None] * len(requests)
        for start in range(0, len(order), self.slots):
            rows = order[start : start + self.slots]
            batch = [requests[i] for i in rows]
            longest = max(len(r.prompt) for r in batch)
            width = -(-longest // self.bucket) * self.bucket
            prompt_BP = left_pad([r.prompt for r in batch], width, self.slots)
            ids_B = np.zeros(self.slots, np.uint32)
            ids_B[: len(batch)] = [r.id & 0xFFFFFFFF for r in batch]
            out = _sample(
                self.graphdef, params, prompt_BP, ids_B, jnp.uint32(seed), jnp.float32(temperature),
                jnp.array(stop, jnp.int32), new_tokens=self.new_tokens, keep=self.keep,
            )  # fmt: skip
            tokens_BN, kept_BNK, probs_BNK, tail_BN = jax.device_get(out)
            for row, index in enumerate(rows):
                results[index] = _cut(tokens_BN[row], kept_BNK[row], probs_BNK[row], tail_BN[row], stop)
            advance(len(rows))
        return results


def left_pad(prompts: Sequence[Sequence[int]], width: int, rows: int) -> np.ndarray:
    """Token ids [rows, width], padded on the left; missing rows repeat a single pad-only prompt."""
    out_BP = np.full((rows, width), PAD, np.int32)
    for row, prompt in enumerate(prompts):
        out_BP[row, width - len(prompt) :] = prompt
    return out_BP


@functools.partial(jax.jit, static_argnames=("graphdef", "new_tokens", "keep"))
def _sample(graphdef, params, prompt_BP, ids_B, seed, temperature, stop, *, new_tokens, keep):
    """The whole batch on device: prefill, then a while loop of decode steps until every row has stopped."""
    model = nnx.merge(graphdef, params)
    batch, columns = prompt_BP.shape
    key = jax.random.key(seed)
    keys_B = jax.vmap(lambda i: jax.random.fold_in(key, i))(ids_B)
    head_DV = model.head_DV()
    real_BP = prompt_BP != PAD
    hidden, cache = model.extend(prompt_BP, real_BP, model.new_cache(batch, columns + new_tokens), 0)
    tokens_BN = jnp.full((batch, new_tokens), PAD, jnp.int32)
    kept_BNK = jnp.zeros((batch, new_tokens, keep), jnp.int32)
    probs_BNK = jnp.zeros((batch, new_tokens, keep), jnp.float32)
    tail_BN = jnp.zeros((batch, new_tokens), jnp.float32)

    def unfinished(carry):
        step, done_B = carry[0], carry[1]
        return (step < new_tokens) & ~jnp.all(done_B)

    def decode(carry):
        step, done_B, hidden_BD, cache, tokens_BN, kept_BNK, probs_BNK, tail_BN = carry
        logits_BV = model.logits(hidden_BD, head_DV)
        token_B = _draw(logits_BV, keys_B, step, temperature)
        kept_BK, probs_BK, tail_B = capture(jax.nn.softmax(logits_BV), token_B, keep)
        token_B = jnp.where(done_B, PAD, token_B)
        tokens_BN = tokens_BN.at[:, step].set(token_B)
        kept_BNK, probs_BNK = kept_BNK.at[:, step].set(kept_BK), probs_BNK.at[:, step].set(probs_BK)
        tail_BN = tail_BN.at[:, step].set(tail_B)
        hidden, cache = model.extend(token_B[:, None], ~done_B[:, None], cache, columns + step)
        done_B = done_B | jnp.any(token_B[:, None] == stop, axis=1)
        return step + 1, done_B, hidden[:, -1], cache, tokens_BN, kept_BNK, probs_BNK, tail_BN

    done_B = ~jnp.any(real_BP, axis=1)
    carry = (0, done_B, hidden[:, -1], cache, tokens_BN, kept_BNK, probs_BNK, tail_BN)
    return jax.lax.while_loop(unfinished, decode, carry)[4:]


def _draw(logits_BV, keys_B, step, temperature):
    """One token a row by inverting the distribution at a uniform number from (row key, position)."""
    uniform_B = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step)))(keys_B)
    warped_BV = jax.nn.softmax(logits_BV / jnp.maximum(temperature, 1e-6), axis=-1)
    cumulative_BV = jnp.cumsum(warped_BV, axis=-1)
    drawn_B = jnp.sum(cumulative_BV < uniform_B[:, None] * cumulative_BV[:, -1:], axis=-1)
    return jnp.where(temperature <= 0, jnp.argmax(logits_BV, axis=-1), drawn_B).astype(jnp.int32)


def capture(probs_BV: jax.Array, token_B: jax.Array, keep: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The `keep` most likely ids with their probabilities and the mass outside; `token_B` is always kept."""
    top_BK, ids_BK = jax.lax.top_k(probs_BV, keep)
    replaced_BK = ~jnp.any(ids_BK == token_B[:, None], axis=1)[:, None] & (jnp.arange(keep) == keep - 1)
    own_B = jnp.sum(jnp.where(jnp.arange(probs_BV.shape[1]) == token_B[:, None], probs_BV, 0), axis=1)
    ids_BK = jnp.where(replaced_BK, token_B[:, None], ids_BK)
    top_BK = jnp.where(replaced_BK, own_B[:, None], top_BK)
    return ids_BK, top_BK, jnp.maximum(1.0 - top_BK.sum(-1), 0.0)


def _cut(tokens_N, ids_NK, probs_NK, tail_N, stop: tuple[int, ...]) -> Sampled:
    stops = np.flatnonzero(np.isin(tokens_N, stop))
    finished = len(stops) > 0
    end = int(stops[0]) if finished else len(tokens_N)
    seen = end + finished
    token = int(tokens_N[end]) if finished else PAD
    return Sampled(tokens_N[:end], finished, token, ids_NK[:seen], probs_NK[:seen], tail_N[:seen])


class Scorer:
    """Asks for the next-token probabilities of a few answers, by one batched prefill."""

    def __init__(self, graphdef: nnx.GraphDef, *, rows: int, bucket: int = 32):
        self.graphdef, self.rows, self.bucket = graphdef, rows, bucket

    def __call__(self, params: nnx.State, prompts: Sequence[tuple[int, ...]], answers: tuple[int, ...]) -> np.ndarray:
        """Probabilities [len(prompts), len(answers)] of each answer id as the next token; equal prompts run once."""
        unique = sorted(set(prompts), key=lambda p: (len(p), p))
        rows: dict[tuple[int, ...], np.ndarray] = {}
        for start in range(0, len(unique), self.rows):
            batch = unique[start : start + self.rows]
            width = -(-len(batch[-1]) // self.bucket) * self.bucket
            padded_BP = left_pad(batch, width, self.rows)
            probs_BA = jax.device_get(_score(self.graphdef, params, padded_BP, jnp.array(answers, jnp.int32)))
            rows.update(zip(batch, probs_BA, strict=False))
        return np.stack([rows[p] for p in prompts]) if prompts else np.zeros((0, len(answers)), np.float32)


@functools.partial(jax.jit, static_argnames="graphdef")
def _score(graphdef, params, prompt_BP, answers_A):
    model = nnx.merge(graphdef, params)
    hidden_BPD, _ = model.extend(prompt_BP, prompt_BP != PAD, model.new_cache(*prompt_BP.shape), 0)
    logits_BV = model.logits(hidden_BPD[:, -1], model.head_DV())
    return jax.nn.softmax(logits_BV)[:, answers_A]

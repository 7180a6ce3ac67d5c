"""The soft-target loss: cross-entropy against a sparse teacher distribution whose tail is one bucket.

The teacher gives kept ids with probabilities p (m = Σp) and the tail mass t; the student gives logits z,
q = softmax(z), Q = Σ q over the kept ids. Per token ℓ = m·lse(z) − Σ p_k z_k − t·log(1−Q). Its gradient is
(m+t)·q_k − p_k on the kept ids and (m + t − t/(1−Q))·q elsewhere: the teacher does not say how the tail is spread, so
the student keeps its own shape there. One-hot targets are K = 1, p = 1, t = 0; K = V is dense cross-entropy; N draws
with counts/N as p and t = 0 are the unbiased sampled form.

Shapes: B batch, T time, D width, V vocabulary, K kept ids, C a chunk of T.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

# 1−Q is a float32 difference: closer to 1 than this Q is rounding, and t/(1−Q) would amplify it.
_LARGEST_Q = 1.0 - 1e-6


class LossSums(NamedTuple):
    """Weighted sums over tokens, never means: add them over microbatches and hosts, then divide once by `weight`.

    All are float32 scalars; losses are in nats. With t > 0, `hits` compares with the likeliest kept id.
    """

    loss: jax.Array  # Σ w·ℓ
    weight: jax.Array  # Σ w
    kl: jax.Array  # Σ w·(ℓ − the teacher's entropy, tail bucket included)
    tail: jax.Array  # Σ w·t
    hits: jax.Array  # Σ w·[argmax student == argmax teacher]


class _Softmax(NamedTuple):
    """What both passes need of a chunk's logits."""

    max_BC1: jax.Array
    total_BC1: jax.Array  # Σ exp(z − max)
    kept_BCK: jax.Array  # which slots of K hold an id
    mass_BC: jax.Array  # Q, bounded away from 1


def soft_target_loss(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    ids_BTK: jax.Array,
    probs_BTK: jax.Array,
    tail_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    chunk: int = 128,
) -> LossSums:
    """Sums the soft-target loss of `hidden @ head` over all tokens.

    Logits exist for `chunk` positions of the sequence at a time, in float32, and are recomputed in the backward pass
    (8·N·D·V FLOPs in all). A slot of K is kept when its probability is above 0; kept ids of a token are distinct.
    Gradients flow to `hidden` and `head` only, through `loss` and `kl`. Works under any sharding of B, D and V; hand in
    `head` already gathered over D's axis so that it is not gathered once per chunk.
    """
    assert hidden_BTD.shape[:2] == tail_BT.shape == weights_BT.shape == ids_BTK.shape[:2] == probs_BTK.shape[:2]
    assert hidden_BTD.shape[2] == head_DV.shape[0] and ids_BTK.shape == probs_BTK.shape and chunk > 0
    targets = (ids_BTK, *(x.astype(jnp.float32) for x in (probs_BTK, tail_BT, weights_BT)))
    return _loss(chunk, hidden_BTD, head_DV, targets)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(chunk, hidden_BTD, head_DV, targets):
    def step(sums, xs):
        hidden_BCD, *chunk_targets = xs
        return jax.tree.map(jnp.add, sums, _chunk_sums(_logits(hidden_BCD, head_DV), *chunk_targets)), None

    zero = LossSums(*[jnp.zeros((), jnp.float32)] * 5)
    return jax.lax.scan(step, zero, _split(chunk, hidden_BTD, *targets))[0]


def _forward(chunk, hidden_BTD, head_DV, targets):
    return _loss(chunk, hidden_BTD, head_DV, targets), (hidden_BTD, head_DV, targets)


def _backward(chunk, residuals, cotangent):
    hidden_BTD, head_DV, targets = residuals
    scale = cotangent.loss + cotangent.kl  # they differ by a constant

    def step(grad_head_DV, xs):
        hidden_BCD, *chunk_targets = xs
        grad_BCV = _chunk_grad(_logits(hidden_BCD, head_DV), *chunk_targets) * scale
        grad_BCV = grad_BCV.astype(head_DV.dtype)
        grad_hidden_BCD = jnp.einsum("bcv,dv->bcd", grad_BCV, head_DV, preferred_element_type=jnp.float32)
        grad_head_DV += jnp.einsum("bcd,bcv->dv", hidden_BCD, grad_BCV, preferred_element_type=jnp.float32)
        return grad_head_DV, grad_hidden_BCD.astype(hidden_BTD.dtype)

    zero_DV = jnp.zeros(head_DV.shape, jnp.float32)
    grad_head_DV, grad_chunks = jax.lax.scan(step, zero_DV, _split(chunk, hidden_BTD, *targets))
    return _join(grad_chunks, hidden_BTD.shape[1]), grad_head_DV.astype(head_DV.dtype), None


_loss.defvjp(_forward, _backward)


def _chunk_sums(logits_BCV, ids_BCK, probs_BCK, tail_BC, weights_BC) -> LossSums:
    student = _softmax(logits_BCV, ids_BCK, probs_BCK)
    # Subtracting before weighting keeps large logits from cancelling: m·lse − Σ p z = Σ p (lse − z).
    surprise_BCK = jnp.log(student.total_BC1) + student.max_BC1 - _at(logits_BCV, ids_BCK)
    surprise_BCK = jnp.where(student.kept_BCK, surprise_BCK, 0.0)
    loss_BC = (probs_BCK * surprise_BCK).sum(-1) - tail_BC * jnp.log1p(-student.mass_BC)
    xlogx = jax.scipy.special.xlogy
    entropy_BC = -xlogx(probs_BCK, probs_BCK).sum(-1) - xlogx(tail_BC, tail_BC)
    top_BC1 = _at(ids_BCK, probs_BCK.argmax(-1, keepdims=True))
    hits_BC = (logits_BCV.argmax(-1) == top_BC1[..., 0]) & student.kept_BCK.any(-1)
    per_token = LossSums(loss_BC, jnp.ones_like(tail_BC), loss_BC - entropy_BC, tail_BC, hits_BC)
    return jax.tree.map(lambda x_BC: (weights_BC * x_BC).sum(), per_token)


def _chunk_grad(logits_BCV, ids_BCK, probs_BCK, tail_BC, weights_BC) -> jax.Array:
    """dℓ/dz of a chunk, weighted."""
    student = _softmax(logits_BCV, ids_BCK, probs_BCK)
    q_BCV = jnp.exp(logits_BCV - student.max_BC1) / student.total_BC1
    total_BC = probs_BCK.sum(-1) + tail_BC
    elsewhere_BC = total_BC - tail_BC / (1.0 - student.mass_BC)
    kept_grad_BCK = total_BC[..., None] * _at(q_BCV, ids_BCK) - probs_BCK
    # Setting, not adding: a difference of two terms in t/(1−Q) would lose the kept ids' gradient when 1−Q is small.
    slots_BCK = jnp.where(student.kept_BCK, ids_BCK, logits_BCV.shape[-1])
    place = jax.vmap(jax.vmap(lambda row_V, slots_K, grad_K: row_V.at[slots_K].set(grad_K, mode="drop")))
    grad_BCV = place(elsewhere_BC[..., None] * q_BCV, slots_BCK, kept_grad_BCK)
    return grad_BCV * weights_BC[..., None]


def _softmax(logits_BCV, ids_BCK, probs_BCK) -> _Softmax:
    max_BC1 = logits_BCV.max(-1, keepdims=True)
    total_BC1 = jnp.exp(logits_BCV - max_BC1).sum(-1, keepdims=True)
    kept_BCK = probs_BCK > 0
    # exp(z−max)/total is accurate to 1 ulp; exp(z−lse) loses digits when lse is large.
    q_BCK = jnp.where(kept_BCK, jnp.exp(_at(logits_BCV, ids_BCK) - max_BC1) / total_BC1, 0.0)
    return _Softmax(max_BC1, total_BC1, kept_BCK, jnp.minimum(q_BCK.sum(-1), _LARGEST_Q))


def _logits(hidden_BCD, head_DV) -> jax.Array:
    return jnp.einsum("bcd,dv->bcv", hidden_BCD, head_DV, preferred_element_type=jnp.float32)


def _at(x_BCN: jax.Array, index_BCK: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BCN, index_BCK, axis=-1)


def _split(chunk: int, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] to [chunks, B, C, ...], T padded with zeros, hence weight 0. B stays whole: it may be sharded."""

    def split(x_BT):
        count = max(1, -(-x_BT.shape[1] // chunk))
        size = max(1, -(-x_BT.shape[1] // count))  # even chunks pad least
        pads = [(0, 0)] * x_BT.ndim
        pads[1] = (0, count * size - x_BT.shape[1])
        padded = jnp.pad(x_BT, pads).reshape(x_BT.shape[0], count, size, *x_BT.shape[2:])
        return jnp.moveaxis(padded, 1, 0)

    return tuple(map(split, arrays))


def _join(x_chunks: jax.Array, time: int) -> jax.Array:
    """Undoes `_split`."""
    x = jnp.moveaxis(x_chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :time]

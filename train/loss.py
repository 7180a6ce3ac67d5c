"""The soft-target loss: cross-entropy against a sparse teacher distribution whose tail is one bucket.

The teacher gives kept ids with probabilities p (m = Σp) and the tail mass t; the student gives logits z,
q = softmax(z), Q = Σ q over the kept ids. Per token ℓ = m·lse(z) − Σ p_k z_k − t·log(1−Q). Its gradient is
(m+t)·q_k − p_k on the kept ids and (m + t − t/(1−Q))·q elsewhere: the teacher does not say how the tail is spread, so
the student keeps its own shape there. One-hot targets are K = 1, p = 1, t = 0; K = V is dense cross-entropy; N draws
with counts/N as p and t = 0 are the unbiased sampled form.

Logits never exist whole. A chip takes its own tokens, in chunks, against its own part of the vocabulary; the chips of
one tensor group exchange the maximum, the sum and the K kept logits of a token, never its row of logits.

Shapes: B batch, T time, N tokens of one chip, D width, V vocabulary (inside the shards: one chip's part), K kept ids,
C a chunk of N.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from ratchet.models.bounds import bounded
from ratchet.models.programs import device_kind, platform
from ratchet.train import flops

# 1−Q is a float32 difference: closer to 1 than this Q is rounding, and t/(1−Q) would amplify it.
_LARGEST_Q = 1.0 - 1e-6
_CHUNK_LOGITS = 2**26
"""Logits of a chunk, of which float32 takes 256 MB: far below a chip's memory, enough rows to fill its matrix unit."""
_TPU_WIDTH = 8
"""On a TPU, a chunk has a row for so many of the head's at least: each chunk reads and writes the whole gradient of the
head, which is most of what the loss of a wide model moves."""
_GPU_ROWS, _GPU_SHARE = 4096, 32
"""A GPU has many matrix units, which more rows fill (0.47 of the time with 4096 instead of 441, on an H100), as long as
their float32 logits take no more than one in so many bytes of its memory, by the data sheet: all hosts choose alike."""
_COMPARED = 32
"""Kept ids of a token that a TPU compares every column with, by rough arithmetic: of more, it takes longer than laying
out the logits anew."""
_SCATTERED = 2**26
"""Numbers of the head's gradient that are added up over chips at a time: 256 MB, which keep a network busy."""


@dataclass(frozen=True)
class LossConfig:
    """How a token's loss is made of logits and target."""

    hard_weight: float = bounded(0.0, "from 0 to 1")
    """Share of the target that is the emitted token alone (one-hot), the rest being the teacher's distribution."""
    temperature: float = bounded(1.0, "above 0")
    """q = softmax(z / temperature), for targets that were taken at that temperature."""
    z_loss: float = bounded(0.0, "at least 0")
    """Weight of lse², which keeps the logits' scale (PaLM, arXiv 2204.02311, uses 1e-4)."""


class LossSums(NamedTuple):
    """Weighted sums over tokens, never means: add them over microbatches and hosts, then divide once by `weight`.

    All are float32 scalars; losses are in nats. With t > 0, `hits` compares with the likeliest kept id.
    """

    loss: jax.Array  # Σ w·(ℓ + z_loss·lse²)
    weight: jax.Array  # Σ w
    kl: jax.Array  # Σ w·(ℓ − the teacher's entropy, tail bucket included)
    tail: jax.Array  # Σ w·t
    hits: jax.Array  # Σ w·[the teacher's likeliest id has the student's largest logit]


class _Plan(NamedTuple):
    """What is known before tracing."""

    chunk: int
    temperature: float
    z_loss: float
    softcap: float
    mesh: jax.sharding.AbstractMesh | None
    """None: one chip, nothing to exchange."""

    @property
    def vocab_axis(self) -> str | None:
        return "tensor" if self.mesh is not None and self.mesh.shape["tensor"] > 1 else None


class _Softmax(NamedTuple):
    """What both passes need of a chunk's logits."""

    max_C1: jax.Array
    total_C1: jax.Array  # Σ exp(z − max)
    at_CK: jax.Array  # z − max of the kept ids, 0 where padded
    mass_C: jax.Array  # Q, bounded away from 1


def soft_target_loss(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    ids_BTK: jax.Array,
    probs_BTK: jax.Array,
    tail_BT: jax.Array,
    weights_BT: jax.Array,
    config: LossConfig = LossConfig(),
    *,
    labels_BT: jax.Array | None = None,
    softcap: float = 0.0,
    chunk: int = 0,
) -> LossSums:
    """Sums the soft-target loss of `hidden @ head` over all tokens of all chips.

    Products take the dtype of `hidden`, logits and sums are float32; `head` may be kept wider, and its gradient has its
    dtype. A slot of K is kept when its probability is above 0; kept ids of a token are distinct. `labels` are the
    emitted tokens, needed for a `hard_weight`. With a `softcap`, logits are cap·tanh(hidden @ head / cap). `chunk` is
    how many of a chip's tokens have logits at a time; 0 chooses.

    Under `jax.set_mesh` with the axes of `train.sharding`, rows lie over (data, fsdp) and the head's columns over
    tensor; its rows are gathered over fsdp once. Gradients flow to `hidden` and `head` alone, through `loss` alone.
    """
    assert hidden_BTD.shape[:2] == tail_BT.shape == weights_BT.shape == ids_BTK.shape[:2] == probs_BTK.shape[:2]
    assert hidden_BTD.shape[2] == head_DV.shape[0] and ids_BTK.shape == probs_BTK.shape and chunk >= 0
    probs_BTK, tail_BT, weights_BT = (x.astype(jnp.float32) for x in (probs_BTK, tail_BT, weights_BT))
    if config.hard_weight:
        assert labels_BT is not None, "a hard weight needs the emitted tokens"
        ids_BTK, probs_BTK, tail_BT = mixed_with_labels(ids_BTK, probs_BTK, tail_BT, labels_BT, config.hard_weight)
    plan = _plan(config, hidden_BTD.shape, head_DV.shape[1], softcap, chunk)
    return _loss(plan, hidden_BTD, head_DV, (ids_BTK, probs_BTK, tail_BT, weights_BT))


def mixed_with_labels(
    ids_BTK, probs_BTK, tail_BT, labels_BT, weight: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(1 − weight)·target + weight·one-hot of the labels; the loss is linear in the target, so this mixes losses.

    A label that is not among the kept ids takes a slot of its own, hence K grows by one. The tail keeps what it has,
    but the label is no longer part of it: there the loss is not quite the mixture of both.
    """
    is_label_BTK = (ids_BTK == labels_BT[..., None]) & (probs_BTK > 0)
    absent_BT1 = ~is_label_BTK.any(-1, keepdims=True)
    probs_BTK = (1 - weight) * probs_BTK + weight * is_label_BTK
    ids = jnp.concatenate([ids_BTK, jnp.where(absent_BT1, labels_BT[..., None], 0)], -1)
    return ids, jnp.concatenate([probs_BTK, weight * absent_BT1], -1), (1 - weight) * tail_BT


def _plan(config: LossConfig, shape: tuple[int, int, int], vocab: int, softcap: float, chunk: int) -> _Plan:
    mesh = jax.sharding.get_abstract_mesh()
    mesh = None if mesh.empty or mesh.size == 1 else mesh
    rows, parts = (1, 1) if mesh is None else (mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"])
    assert shape[0] % rows == 0, f"{shape[0]} rows do not divide over {rows} chips"
    assert vocab % parts == 0, f"a vocabulary of {vocab} does not divide over {parts} chips"
    tokens, vocab = shape[0] // rows * shape[1], vocab // parts
    wide = shape[2] // _TPU_WIDTH if platform() == "tpu" else 0
    most = max(128, wide, 2 ** ((_chunk_logits(vocab) // vocab).bit_length() - 1))
    return _Plan(min(chunk or most, max(tokens, 1)), config.temperature, config.z_loss, softcap, mesh)


def _chunk_logits(vocab: int) -> int:
    """How many logits a chunk may have on the device that this is compiled for."""
    chip = flops.chip_of(device_kind()) if platform() == "gpu" else None
    return min(_GPU_ROWS * vocab, int(chip.memory) // _GPU_SHARE // 4) if chip else _CHUNK_LOGITS


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(plan: _Plan, hidden_BTD, head_DV, targets) -> LossSums:
    return _on_every_chip(_sums, plan, hidden_BTD, head_DV, targets)


def _forward(plan: _Plan, hidden_BTD, head_DV, targets):
    """The sums, and the gradients as residuals. The loss ends the forward pass, so they wait for nothing. To take the
    logits again in the backward pass would save little memory or none, and multiplies once more."""
    return _on_every_chip(_sums_and_gradients, plan, hidden_BTD, head_DV, targets)


def _backward(plan: _Plan, gradients: tuple[jax.Array, jax.Array], cotangent: LossSums):
    scaled = [(g.astype(jnp.float32) * cotangent.loss).astype(g.dtype) for g in gradients]
    return *scaled, None


_loss.defvjp(_forward, _backward)


def _on_every_chip(run: Callable, plan: _Plan, hidden_BTD, head_DV, targets):
    """`run` on each chip's own tokens and part of the head. Differentiated by hand, so it may reduce as it likes."""
    if plan.mesh is None:
        return run(plan, hidden_BTD, head_DV, targets)
    rows = P(("data", "fsdp"))
    gradients = rows, P("fsdp" if _scattered(plan, len(head_DV)) else None, "tensor")
    return jax.shard_map(
        partial(run, plan),
        in_specs=(rows, P(None, "tensor"), rows),
        out_specs=P() if run is _sums else (P(), gradients),
        check_vma=False,
    )(hidden_BTD, head_DV, targets)


def _sums(plan: _Plan, hidden_BTD, head_DV, targets) -> LossSums:
    head_DV = head_DV.astype(hidden_BTD.dtype)

    def step(sums: LossSums, xs):
        hidden_CD, *chunk_targets = xs
        logits_CV = _logits(plan, hidden_CD, head_DV)
        softmax = _softmax(plan, logits_CV, *chunk_targets[:2])
        return jax.tree.map(jnp.add, sums, _chunk_sums(plan, softmax, *chunk_targets)), None

    sums, _ = jax.lax.scan(step, _zero(), _chunks(plan.chunk, hidden_BTD, *targets))
    return _over_rows(plan, sums)


def _sums_and_gradients(plan: _Plan, hidden_BTD, head_DV, targets):
    """The sums, and the gradient of `loss` in hidden and head: one product for the logits, one for each gradient."""
    wide, head_DV = head_DV.dtype, head_DV.astype(hidden_BTD.dtype)

    def step(carry, xs):
        sums, grad_head_DV = carry
        hidden_CD, *chunk_targets = xs
        logits_CV = _logits(plan, hidden_CD, head_DV)
        softmax = _softmax(plan, logits_CV, *chunk_targets[:2])
        grad_CV = _chunk_grad(plan, softmax, logits_CV, head_DV.dtype, *chunk_targets)
        grad_hidden_CD = jnp.einsum("cv,dv->cd", grad_CV, head_DV, preferred_element_type=jnp.float32)
        grad_head_DV += jnp.einsum("cd,cv->dv", hidden_CD, grad_CV, preferred_element_type=jnp.float32)
        sums = jax.tree.map(jnp.add, sums, _chunk_sums(plan, softmax, *chunk_targets))
        # Parts of a sum over the vocabulary's chips stay in float32 until they are added.
        return (sums, grad_head_DV), grad_hidden_CD if plan.vocab_axis else grad_hidden_CD.astype(hidden_BTD.dtype)

    start = _zero(), jnp.zeros(head_DV.shape, jnp.float32)
    (sums, grad_head_DV), grad_chunks = jax.lax.scan(step, start, _chunks(plan.chunk, hidden_BTD, *targets))
    grad_hidden_ND = grad_chunks.reshape(-1, grad_chunks.shape[-1])[: hidden_BTD.shape[0] * hidden_BTD.shape[1]]
    if plan.vocab_axis:
        grad_hidden_ND = jax.lax.psum(grad_hidden_ND, plan.vocab_axis)
    if plan.mesh is not None:
        grad_head_DV = _scatter(grad_head_DV) if _scattered(plan, len(head_DV)) else jax.lax.psum(grad_head_DV, "fsdp")
        grad_head_DV = jax.lax.psum(grad_head_DV, "data")
    gradients = grad_hidden_ND.reshape(hidden_BTD.shape).astype(hidden_BTD.dtype), grad_head_DV.astype(wide)
    if plan.mesh is not None and platform() == "tpu":
        # Otherwise the compiler may add up the head's gradient later, and then a chip keeps all of its rows during the
        # layers' backward pass.
        gradients = jax.lax.optimization_barrier(gradients)
    return _over_rows(plan, sums), gradients


def _scatter(grad_DV: jax.Array) -> jax.Array:
    """The sum of the chips' gradients over fsdp, of which each chip keeps its own rows. TPUs add up the whole before
    they cut it, so they are given some columns at a time."""
    width, vocab = grad_DV.shape
    count = -(-width * vocab // _SCATTERED) if platform() == "tpu" else 1
    block = min(vocab, -(-vocab // count // 128) * 128)
    if block == vocab:
        return jax.lax.psum_scatter(grad_DV, "fsdp", scatter_dimension=0, tiled=True)

    def one(number: int, sum_DV: jax.Array) -> jax.Array:
        start = jnp.minimum(number * block, vocab - block)  # the last block begins within the one before
        part_DC = jax.lax.dynamic_slice_in_dim(grad_DV, start, block, 1)
        part_DC = jax.lax.psum_scatter(part_DC, "fsdp", scatter_dimension=0, tiled=True)
        return jax.lax.dynamic_update_slice_in_dim(sum_DV, part_DC, start, 1)

    own = jnp.zeros((width // jax.lax.axis_size("fsdp"), vocab), grad_DV.dtype)
    return jax.lax.fori_loop(0, -(-vocab // block), one, own)


def _chunk_sums(plan: _Plan, softmax: _Softmax, ids_CK, probs_CK, tail_C, weights_C) -> LossSums:
    lse_C = jnp.log(softmax.total_C1[:, 0])  # of z − max
    # Subtracting before weighting keeps large logits from cancelling: m·lse − Σ p z = Σ p (lse − z).
    surprise_CK = jnp.where(probs_CK > 0, lse_C[:, None] - softmax.at_CK, 0.0)
    loss_C = (probs_CK * surprise_CK).sum(-1) - tail_C * jnp.log1p(-softmax.mass_C)
    xlogx = jax.scipy.special.xlogy
    entropy_C = -xlogx(probs_CK, probs_CK).sum(-1) - xlogx(tail_C, tail_C)
    z_loss_C = plan.z_loss * jnp.square(lse_C + softmax.max_C1[:, 0]) if plan.z_loss else 0.0
    top_C1 = probs_CK.argmax(-1, keepdims=True)
    hits_C = (jnp.take_along_axis(softmax.at_CK, top_C1, -1)[:, 0] >= 0) & (probs_CK > 0).any(-1)
    per_token = LossSums(loss_C + z_loss_C, jnp.ones_like(tail_C), loss_C - entropy_C, tail_C, hits_C)
    return jax.tree.map(lambda x_C: (weights_C * x_C).sum(), per_token)


def _chunk_grad(plan: _Plan, softmax: _Softmax, logits_CV, dtype, ids_CK, probs_CK, tail_C, weights_C) -> jax.Array:
    """d loss / d(hidden @ head) of a chunk on this chip's part of the vocabulary, weighted, in `dtype`."""
    q_CV = jnp.exp(logits_CV - softmax.max_C1) / softmax.total_C1
    q_CK = jnp.exp(softmax.at_CK) / softmax.total_C1
    total_C = probs_CK.sum(-1) + tail_C
    if plan.z_loss:
        total_C += 2 * plan.z_loss * (jnp.log(softmax.total_C1) + softmax.max_C1)[:, 0]
    elsewhere_C = total_C - tail_C / (1.0 - softmax.mass_C)
    scale_C1 = (weights_C / plan.temperature)[:, None]
    kept_grad_CK = (total_C[:, None] * q_CK - probs_CK) * scale_C1
    grad_CV = (elsewhere_C[:, None] * scale_C1) * q_CV
    # Most devices set numbers in memory, hence in the dtype of products, unless more is to be multiplied.
    grad_CV, kept_grad_CK = (x if plan.softcap else x.astype(dtype) for x in (grad_CV, kept_grad_CK))
    # Setting, not adding: a difference of two terms in t/(1−Q) would lose the kept ids' gradient when 1−Q is small.
    grad_CV = _set(grad_CV, _slots(plan, ids_CK, probs_CK > 0, logits_CV.shape[-1]), kept_grad_CK)
    if plan.softcap:
        grad_CV = grad_CV * (1 - jnp.square(logits_CV * plan.temperature / plan.softcap))
    return grad_CV.astype(dtype)


def _set(grad_CV: jax.Array, slots_CK: jax.Array, kept_grad_CK: jax.Array) -> jax.Array:
    """The gradient with other numbers in some slots; those past its end are dropped. To set single numbers, a TPU would
    lay out all of them anew, and again for the products; to compare each with K slots costs it no memory."""
    if platform() != "tpu" or slots_CK.shape[1] > _COMPARED:
        place = jax.vmap(lambda row_V, slots_K, grad_K: row_V.at[slots_K].set(grad_K, mode="drop"))
        return place(grad_CV, slots_CK, kept_grad_CK)
    columns_CV = jax.lax.broadcasted_iota(jnp.int32, grad_CV.shape, 1)
    for slot in range(slots_CK.shape[1]):
        one = slice(slot, slot + 1)
        grad_CV = jnp.where(columns_CV == slots_CK[:, one], kept_grad_CK[:, one], grad_CV)
    return grad_CV


def _softmax(plan: _Plan, logits_CV, ids_CK, probs_CK) -> _Softmax:
    kept_CK = probs_CK > 0
    vocab = logits_CV.shape[-1]
    slots_CK = _slots(plan, ids_CK, kept_CK, vocab)
    max_C1, total_C1 = _max_and_total(plan, logits_CV)
    at_CK = jnp.take_along_axis(logits_CV, jnp.minimum(slots_CK, vocab - 1), axis=-1) - max_C1
    at_CK = jnp.where(slots_CK < vocab, at_CK, 0.0)
    if plan.vocab_axis:
        total_C1, at_CK = jax.lax.psum((total_C1, at_CK), plan.vocab_axis)
    # exp(z−max)/total is accurate to 1 ulp; exp(z−lse) loses digits when lse is large.
    q_CK = jnp.where(kept_CK, jnp.exp(at_CK) / total_C1, 0.0)
    return _Softmax(max_C1, total_C1, at_CK, jnp.minimum(q_CK.sum(-1), _LARGEST_Q))


def _max_and_total(plan: _Plan, logits_CV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest logit of a token [C, 1], of all chips, and this chip's Σ exp(z − max)."""
    if platform() == "gpu" and not plan.vocab_axis:
        return _max_and_total_at_once(logits_CV)
    max_C1 = logits_CV.max(-1, keepdims=True)
    if plan.vocab_axis:
        max_C1 = jax.lax.pmax(max_C1, plan.vocab_axis)
    return max_C1, jnp.exp(logits_CV - max_C1).sum(-1, keepdims=True)


def _max_and_total_at_once(logits_CV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reads the logits once, from a GPU's memory, and takes twice as many exponentials, which it has time for."""

    def add(one, other):
        largest = jnp.maximum(one[0], other[0])
        return largest, one[1] * jnp.exp(one[0] - largest) + other[1] * jnp.exp(other[0] - largest)

    nothing = jnp.finfo(jnp.float32).min, jnp.float32(0)
    max_C, total_C = jax.lax.reduce((logits_CV, jnp.ones_like(logits_CV)), nothing, add, (1,))
    return max_C[:, None], total_C[:, None]


def _slots(plan: _Plan, ids_CK, kept_CK, vocab: int) -> jax.Array:
    """Where kept ids lie on this chip's part of the vocabulary; `vocab` (past its end) for all others."""
    first = jax.lax.axis_index(plan.vocab_axis) * vocab if plan.vocab_axis else 0
    local_CK = ids_CK - first
    return jnp.where(kept_CK & (local_CK >= 0) & (local_CK < vocab), local_CK, vocab)


def _logits(plan: _Plan, hidden_CD, head_DV) -> jax.Array:
    logits_CV = jnp.einsum("cd,dv->cv", hidden_CD, head_DV, preferred_element_type=jnp.float32)
    if plan.softcap:
        logits_CV = plan.softcap * jnp.tanh(logits_CV / plan.softcap)
    return logits_CV if plan.temperature == 1.0 else logits_CV / plan.temperature


def _zero() -> LossSums:
    return LossSums(*[jnp.zeros((), jnp.float32)] * 5)


def _over_rows(plan: _Plan, sums: LossSums) -> LossSums:
    return sums if plan.mesh is None else jax.lax.psum(sums, ("data", "fsdp"))


def _scattered(plan: _Plan, width: int) -> bool:
    """Whether the head's gradient comes out split over fsdp, as the head itself is stored."""
    return width % plan.mesh.shape["fsdp"] == 0


def _chunks(chunk: int, *arrays_BT: jax.Array) -> tuple[jax.Array, ...]:
    """[B, T, ...] to [chunks, C, ...], N = B·T padded with zeros, hence weight 0; even chunks pad least."""
    tokens = arrays_BT[0].shape[0] * arrays_BT[0].shape[1]
    count = max(1, -(-tokens // chunk))
    size = max(1, -(-tokens // count))

    def split(x_BT):
        flat_N = x_BT.reshape(tokens, *x_BT.shape[2:])
        padded = jnp.pad(flat_N, [(0, count * size - tokens)] + [(0, 0)] * (flat_N.ndim - 1))
        return padded.reshape(count, size, *flat_N.shape[1:])

    return tuple(map(split, arrays_BT))

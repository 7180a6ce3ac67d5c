import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ratchet.train import loss
from ratchet.train.loss import LossConfig, LossSums, soft_target_loss
from ratchet.train.sharding import MeshConfig, make_mesh

B, T, D, V, K = 4, 13, 8, 40, 5


def problem(seed=0, kept=K, tail=True, scale=1.0):
    """Random arguments with ragged K, padding slots (id 0, prob 0) and some zero weights."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(V)[:kept] for _ in range(B * T)]).reshape(B, T, kept)
    probs = rng.dirichlet(np.full(kept + 1, 0.7), (B, T))
    probs, tails = probs[..., :-1], probs[..., -1]
    if not tail:
        probs, tails = probs / (1 - tails[..., None]), 0 * tails
    if kept > 2 and tail:
        padded = np.arange(kept) >= rng.integers(1, kept + 1, (B, T, 1))
        tails = tails + np.where(padded, probs, 0).sum(-1)
        ids, probs = np.where(padded, 0, ids), np.where(padded, 0, probs)
    weights = rng.uniform(0, 2, (B, T)) * (rng.random((B, T)) < 0.8)
    hidden, head = scale * rng.normal(size=(B, T, D)), rng.normal(size=(D, V))
    floats = (np.float32(x) for x in (hidden, head, probs, tails, weights))
    hidden, head, probs, tails, weights = floats
    return hidden, head, ids.astype(np.int32), probs, tails, weights


def labels_of(seed=0):
    """An emitted token for every position, seldom among the kept ids."""
    return np.random.default_rng([seed, 1]).integers(0, V, (B, T)).astype(np.int32)


def dense_sums(hidden, head, ids, probs, tail, weights, config=LossConfig(), labels=None, softcap=0.0):
    """The definition, from whole logits and a dense mask; float64 when x64 is on."""
    logits = softcap * jnp.tanh(hidden @ head / softcap) if softcap else hidden @ head
    logits = logits / config.temperature
    log_q = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(ids, V, dtype=logits.dtype) * (probs > 0)[..., None]
    p = (one_hot * probs[..., None]).sum(-2)
    if config.hard_weight:
        return _mixed(config, logits, log_q, one_hot, p, tail, weights, labels)
    outside = 1 - one_hot.sum(-2)
    rest = jnp.where(tail > 0, (outside * jnp.exp(log_q)).sum(-1), 1.0)
    loss = -(p * log_q).sum(-1) - tail * jnp.log(rest)
    z_loss = config.z_loss * jax.nn.logsumexp(logits, -1) ** 2
    p_or_1, tail_or_1 = jnp.where(p > 0, p, 1.0), jnp.where(tail > 0, tail, 1.0)
    entropy = -(p * jnp.log(p_or_1)).sum(-1) - tail * jnp.log(tail_or_1)
    hits = (logits.argmax(-1) == p.argmax(-1)) & (p.max(-1) > 0)
    return LossSums(*(jnp.sum(weights * x) for x in (loss + z_loss, jnp.ones_like(loss), loss - entropy, tail, hits)))


def _mixed(config, logits, log_q, one_hot, p, tail, weights, labels):
    """The mixture's own definition: a weighted sum of two losses. A label outside the kept ids leaves the tail bucket,
    so that one is taken over the kept ids and the label."""
    label = jax.nn.one_hot(labels, V, dtype=logits.dtype)
    outside = 1 - jnp.maximum(one_hot.sum(-2), label)
    rest = jnp.where(tail > 0, (outside * jnp.exp(log_q)).sum(-1), 1.0)
    soft = -(p * log_q).sum(-1) - tail * jnp.log(rest)
    hard = -(label * log_q).sum(-1)
    loss = (1 - config.hard_weight) * soft + config.hard_weight * hard
    return LossSums(jnp.sum(weights * loss), jnp.sum(weights), *[jnp.zeros(())] * 3)


def reference(args, config=LossConfig(), labels=None, softcap=0.0):
    def sums_of(*b):
        return dense_sums(*b, config, labels, softcap)

    with jax.enable_x64(True):
        args = [jnp.asarray(np.asarray(a, np.float64) if a.dtype == np.float32 else a) for a in args]
        sums, grads = jax.jit(lambda *a: (sums_of(*a), jax.grad(lambda *b: sums_of(*b).loss, (0, 1))(*a)))(*args)
        return jax.tree.map(np.asarray, (sums, grads))


@partial(jax.jit, static_argnames=("chunk", "config", "softcap"))
def sums_and_grads(*args, chunk=128, config=LossConfig(), labels=None, softcap=0.0):
    def loss(*args):
        sums = soft_target_loss(*args, config, labels_BT=labels, softcap=softcap, chunk=chunk)
        return sums.loss, sums

    (_, sums), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(*args)
    return sums, grads


def ours(args, **options):
    return jax.tree.map(np.asarray, sums_and_grads(*args, **options))


def assert_close(got, want, tolerance):
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert np.isfinite(x).all()
        assert np.linalg.norm(x - y) <= tolerance * max(np.linalg.norm(y), 1e-3)


@pytest.mark.parametrize("chunk", [1, 17, 0])
@pytest.mark.parametrize("tail", [True, False])
def test_matches_float64_autodiff(chunk, tail):
    args = problem(chunk, tail=tail)
    assert_close(ours(args, chunk=chunk), reference(args), 1e-5)


@pytest.mark.parametrize("settings", [{"temperature": 2.5}, {"z_loss": 1e-2}, {"temperature": 1.5, "z_loss": 1e-3}])
def test_temperature_and_z_loss_match_float64_autodiff(settings):
    args, config = problem(12), LossConfig(**settings)
    assert_close(ours(args, chunk=17, config=config), reference(args, config), 1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_capped_logits_match_float64_autodiff(temperature):
    args, config = problem(18, scale=2.0), LossConfig(temperature=temperature)
    assert_close(ours(args, chunk=17, config=config, softcap=4.0), reference(args, config, softcap=4.0), 1e-5)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_hard_weight_mixes_the_two_losses(weight):
    args, labels = problem(13), labels_of()
    labels = np.where(np.arange(T) % 2, labels, args[2][..., 0])  # every second label is a kept id
    config = LossConfig(hard_weight=weight)
    sums, grads = ours(args, chunk=17, config=config, labels=labels)
    want, want_grads = reference(args, config, labels)
    assert_close((sums.loss, sums.weight, grads), (want.loss, want.weight, want_grads), 1e-5)


def test_a_chunk_is_multiplied_three_times_for_a_gradient_and_once_without():
    """Sums and gradients come from the same logits, however many columns the head has."""
    kinds = (jnp.float32, jnp.float32, jnp.int32, jnp.float32, jnp.float32, jnp.float32)
    shapes = ((1, 8, D), (D, 2**20), (1, 8, K), (1, 8, K), (1, 8), (1, 8))
    args = [jax.ShapeDtypeStruct(*both) for both in zip(shapes, kinds, strict=True)]
    products = lambda of: jax.jit(of).lower(*args).compile().as_text().count(" dot(")
    loss = lambda *a: (lambda sums: (sums.loss, sums))(soft_target_loss(*a, chunk=2))
    assert products(jax.value_and_grad(loss, (0, 1), has_aux=True)) == 3
    assert products(jax.value_and_grad(loss, has_aux=True)) == 2, "where the head is frozen, as with adapters"
    assert products(soft_target_loss) == 1


def test_mass_need_not_be_one():
    hidden, head, ids, probs, tail, weights = problem(3)
    args = hidden, head, ids, 1.7 * probs, 0.4 * tail, weights
    assert_close(ours(args, chunk=4), reference(args), 1e-5)


def test_one_hot_is_optax_cross_entropy():
    hidden, head, ids, _, _, weights = problem(1, kept=1)
    args = hidden, head, ids, np.ones_like(ids, np.float32), np.zeros((B, T), np.float32), weights
    want = optax.softmax_cross_entropy_with_integer_labels(hidden @ head, ids[..., 0])
    sums = soft_target_loss(*args, chunk=4)
    np.testing.assert_allclose(sums.loss, (weights * want).sum(), rtol=1e-6)
    np.testing.assert_allclose(sums.kl, sums.loss, rtol=1e-6)
    assert sums.tail == 0


def test_all_ids_kept_is_dense_cross_entropy_and_kl():
    args = problem(2, kept=V, tail=False)
    hidden, head, ids, probs, _, weights = args
    dense = np.zeros((B, T, V), np.float32)
    np.put_along_axis(dense, ids, probs, -1)
    sums = soft_target_loss(*args, chunk=4)
    want = optax.softmax_cross_entropy(hidden @ head, dense)
    np.testing.assert_allclose(sums.loss, (weights * want).sum(), rtol=1e-5)
    want = optax.losses.kl_divergence(jax.nn.log_softmax(hidden @ head), dense)
    np.testing.assert_allclose(sums.kl, (weights * want).sum(), rtol=1e-5)


def test_perfect_student_has_no_kl_and_no_gradient():
    hidden, head, ids, _, _, weights = problem(4)
    ids = np.broadcast_to(np.arange(K, dtype=np.int32), ids.shape)
    q = np.asarray(jax.nn.softmax(np.float64(hidden) @ head))
    probs = np.take_along_axis(q, ids, -1).astype(np.float32)
    args = hidden, head, ids, probs, 1 - probs.sum(-1), weights
    sums, (grad_hidden, grad_head) = ours(args)
    assert abs(sums.kl) < 1e-4
    assert np.abs(grad_hidden).max() < 1e-5 and np.abs(grad_head).max() < 1e-4
    likely = weights[q.argmax(-1) < K].sum()
    assert likely <= sums.hits <= sums.weight


def test_sampled_counts_are_unbiased():
    """Over all one-draw outcomes, the expected gradient is that of full distillation."""
    hidden, head, ids, probs, tail, weights = problem(5, kept=V, tail=False)
    _, want = ours((hidden, head, ids, probs, tail, weights))
    mean = jax.tree.map(np.zeros_like, want)
    for k in range(V):
        draw = np.ones((B, T, 1), np.float32)
        _, grads = ours((hidden, head, ids[..., k : k + 1], draw, tail, weights * probs[..., k]))
        mean = jax.tree.map(np.add, mean, grads)
    assert_close(mean, want, 1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("case", ["no weight", "all tail", "no tail", "all kept with a tail"])
def test_extremes_stay_finite(case, scale):
    hidden, head, ids, probs, tail, weights = problem(6, kept=V if case.startswith("all kept") else K, scale=scale)
    if case == "no weight":
        weights = np.zeros_like(weights)
    elif case == "all tail":
        ids, probs, tail = np.zeros_like(ids), np.zeros_like(probs), np.ones_like(tail)
    elif case == "no tail":
        tail = np.zeros_like(tail)
    sums, grads = ours((hidden, head, ids, probs, tail, weights))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((sums, grads)))
    if case in ("no weight", "all tail"):
        assert not any(x.any() for x in jax.tree.leaves(grads)) and sums.loss == 0 and sums.hits == 0


def test_large_logits_match_float64():
    args = problem(7, tail=False, scale=1e3)
    assert_close(ours(args)[0], reference(args)[0], 1e-5)


def test_padding_slots_do_not_count_id_zero():
    hidden, head, ids, probs, tail, weights = problem(8, kept=2)
    wider = np.concatenate([ids, np.zeros_like(ids)], -1), np.concatenate([probs, np.zeros_like(probs)], -1)
    assert_close(ours((hidden, head, *wider, tail, weights)), ours((hidden, head, ids, probs, tail, weights)), 1e-6)


def test_targets_and_weights_get_no_gradient():
    args = problem(9)
    for x in jax.grad(lambda p, t, w: soft_target_loss(*args[:3], p, t, w).loss, (0, 1, 2))(*args[3:]):
        assert not np.asarray(x).any()


def test_bfloat16_in_float32_inside():
    args = problem(10)
    half = (args[0].astype(jnp.bfloat16), args[1].astype(jnp.bfloat16), *args[2:])
    sums, grads = ours(half)
    assert grads[0].dtype == grads[1].dtype == jnp.bfloat16 and sums.loss.dtype == np.float32
    exact = reference([np.asarray(half[0], np.float32), np.asarray(half[1], np.float32), *args[2:]])
    assert_close(sums, exact[0], 1e-5)
    assert_close([np.float32(g) for g in grads], exact[1], 1e-2)


def test_chunks_of_a_wide_model_are_larger_on_tpus(monkeypatch):
    """Of 151,936 logits a row, 2²⁶ are 441 rows, of which the chunk takes a power of two."""
    rows = lambda width: loss._plan(LossConfig(), (2, 2048, width), 151_936, 0.0, 0).chunk
    assert [rows(1024), rows(4096), rows(8192)] == [256, 256, 256]
    monkeypatch.setattr(loss, "platform", lambda: "tpu")
    assert [rows(1024), rows(4096), rows(8192)] == [256, 512, 1024]


@pytest.mark.parametrize("shape", [(1, 1, 1), (8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_every_mesh_gives_the_same(shape):
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    config, labels = LossConfig(hard_weight=0.2, z_loss=1e-3), np.tile(labels_of(), (2, 1))
    first, second = problem(11), problem(14)
    args = [a if a is first[1] else np.concatenate([a, b]) for a, b in zip(first, second, strict=True)]
    rows = P(("data", "fsdp"))
    specs = rows, P("fsdp", "tensor"), *[rows] * 4
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(args, specs, strict=True)]
    options = {"chunk": 5, "config": config, "labels": labels}
    with jax.set_mesh(mesh):
        sums, grads = sums_and_grads(*placed, **options)
    assert_close((sums, grads), sums_and_grads(*args, **options), 1e-6)
    assert grads[0].sharding.device_set == set(mesh.devices.flat)
    assert grads[1].sharding.is_equivalent_to(NamedSharding(mesh, P("fsdp", "tensor")), 2)


def test_chips_exchange_no_logits():
    """Of the vocabulary's chips only numbers per token meet; the head's gradient is scattered as the head is stored."""
    mesh, rows = make_mesh(MeshConfig(1, 4, 2)), P(("data", "fsdp"))
    args = problem(15)
    specs = rows, P("fsdp", "tensor"), *[rows] * 4
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(args, specs, strict=True)]
    with jax.set_mesh(mesh):
        text = sums_and_grads.lower(*placed, chunk=T).compile().as_text()
    sent = [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for shape in re.findall(r"f32\[([\d,]*)\][^=]* (?:all-reduce|all-gather|all-to-all|collective-permute)", text)
    ]
    assert sent and max(sent) <= D * V // 2  # the head, gathered once
    assert T * V // 2 > D * V // 2  # so that a sequence's logits would show


@pytest.mark.parametrize(("vocab", "block"), [(300, 128), (128, 128), (400, 128), (100, 100)])
def test_tpus_add_up_a_large_gradient_of_the_head_some_columns_at_a_time(monkeypatch, vocab, block):
    """The last block begins within the one before it."""
    width, mesh = 16, make_mesh(MeshConfig(1, 8, 1))
    grads_NDV = np.random.default_rng(0).integers(-99, 99, (8 * width, vocab)).astype(np.float32)

    def scattered():
        own = {"in_specs": P("fsdp"), "out_specs": P("fsdp"), "mesh": mesh, "check_vma": False}
        run = jax.jit(jax.shard_map(loss._scatter, **own))
        text = run.lower(grads_NDV).compile().as_text()
        return np.asarray(run(grads_NDV)), re.findall(r"f32\[(\d+),(\d+)\][^=]* reduce-scatter\(", text)

    want, whole = scattered()
    monkeypatch.setattr(loss, "_SCATTERED", width * 100)
    assert scattered()[1] == whole, "others at once"
    monkeypatch.setattr(loss, "platform", lambda: "tpu")
    got, parts = scattered()
    assert (got == grads_NDV.reshape(8, width, vocab).sum(0)).all() and (got == want).all()
    assert whole == [("2", str(vocab))] and parts == [("2", str(block))]


def test_the_mean_gradient_of_sampled_targets_is_that_of_the_dense_one():
    """2,000 draws of counts from the teacher: within three standard errors, almost everywhere."""
    hidden, head, *targets = problem(16, kept=V, tail=False)
    hidden, ids, probs, tail, weights = (a[:1, :2] for a in (hidden, *targets))
    weights = np.ones_like(weights)
    _, want = ours((hidden, head, ids, probs, tail, weights))
    rng, draws, n = np.random.default_rng(0), 2000, 12
    counts = np.stack([rng.multinomial(n, p / p.sum(), draws) for p in probs.reshape(-1, V).astype(np.float64)], 1)
    one = jax.jit(jax.grad(lambda h, w, p: soft_target_loss(h, w, ids, p, tail, weights).loss, (0, 1)))
    grads = jax.lax.map(lambda c: one(hidden, head, c.reshape(probs.shape)), jnp.float32(counts / n), batch_size=100)
    for drawn, exact in zip(grads, want, strict=True):
        drawn = np.asarray(drawn, np.float64)
        error = np.abs(drawn.mean(0) - exact) / (drawn.std(0) / draws**0.5 + 1e-9)
        assert np.mean(error < 3) > 0.98 and error.max() < 5


def test_logits_are_never_whole():
    """The compiled step's temporaries stay far below one float32 [B, T, V] array."""
    b, t, v = 1, 512, 4096
    shapes = ((b, t, D), (D, v), (b, t, K), (b, t, K), (b, t), (b, t))
    dtypes = (jnp.float32, jnp.float32, jnp.int32, jnp.float32, jnp.float32, jnp.float32)
    specs = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
    step = jax.jit(jax.grad(lambda *a: soft_target_loss(*a, chunk=32).loss, (0, 1)))
    assert step.lower(*specs).compile().memory_analysis().temp_size_in_bytes < b * t * v * 4 // 3


def test_a_tpu_compares_columns_where_others_set_them(monkeypatch):
    rng, args, config = np.random.default_rng(0), problem(8), LossConfig()
    slots_CK = np.stack([rng.permutation(V + K)[:K] for _ in range(T)])
    set_by = lambda: loss._set(jnp.zeros((T, V)), np.minimum(slots_CK, V), np.float32(slots_CK))
    others = set_by()
    monkeypatch.setattr(loss, "platform", lambda: "tpu")
    np.testing.assert_array_equal(set_by(), others)
    assert others.sum() == slots_CK[slots_CK < V].sum() > 0
    assert_close(ours(args, chunk=18, config=config), reference(args), 1e-5)
    scatters = lambda chunk: "scatter" in str(sums_and_grads.trace(*args, chunk=chunk, config=config).jaxpr)
    assert not scatters(chunk=18)
    monkeypatch.setattr(loss, "_COMPARED", K - 1)
    assert scatters(chunk=20), "of many kept ids none is compared"


def test_a_gpu_reads_logits_once_in_chunks_that_fill_it(monkeypatch):
    here = SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(loss, "platform", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [here])
    args = problem(7)
    assert_close(ours(args, chunk=19), reference(args), 1e-5)
    rows = lambda vocab: loss._plan(LossConfig(), (8, 2048, 64), vocab, 0.0, 0).chunk
    assert rows(151_936) == rows(1000) == 4096
    assert rows(400_000) == 1024, "float32 logits of 2048 would take more than a 32nd of the memory"
    here.device_kind = "NVIDIA of another kind"
    assert rows(151_936) == 256

"""Kernels against matrix products. TPU's runs by its interpreter here; that it compiles is in launch/test_preflight."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import requests

from ratchet.models import cudnn, decoder, programs
from ratchet.models.attention import attend, attend_packed, causal_mask
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import NO_WINDOW, Family
from ratchet.models.kernels import Kernel, Scores, attend_cache, attend_rows, masked
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding

SPLASH = Kernel("splash")
ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 4, 150, 4, 2, 16


@pytest.fixture(scope="module")
def operands():
    rng = np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(rng.normal(size=(ROWS, LENGTH, heads, WIDTH)), jnp.float32)
    return draw(HEADS), draw(KV_HEADS), draw(KV_HEADS)


@pytest.fixture(scope="module")
def segments():
    found = np.sort(np.random.default_rng(1).integers(1, 4, (ROWS, LENGTH)), axis=1)
    return jnp.asarray(np.where(np.arange(LENGTH) < LENGTH - 9, found, 0))


def test_a_card_is_a_gpu_by_whatever_name_jax_has_for_it():
    named = [programs.platform(SimpleNamespace(platform=name)) for name in ("cuda", "rocm", "gpu", "tpu", "cpu")]
    assert named == ["gpu", "gpu", "gpu", "tpu", "cpu"]
    assert programs.platform() == Kernel(rows=slots_sharding(make_mesh(MeshConfig()))).platform == "cpu"


@pytest.mark.parametrize(
    ("sliding", "scores"),
    [(None, Scores(0.25)), (True, Scores(0.3, window=40)), (False, Scores(0.25, softcap=4.0, window=40))],
)
def test_splash_attends_as_matrix_products_do_and_so_do_its_gradients(operands, segments, sliding, scores):
    window = None if sliding is None else jnp.where(sliding, scores.window, NO_WINDOW)
    real = (segments > 0)[..., None, None]

    def loss(function):
        def scalar(operands):
            mixed = function(*operands)
            return jnp.sum(jnp.sin(mixed) * real), mixed * real

        return jax.value_and_grad(scalar, has_aux=True)

    slides = None if sliding is None else jnp.asarray(sliding)  # traced, as a scanned layer has it
    by_kernel = lambda q, k, v: attend_rows(q, k, v, segments, slides, window, scores, SPLASH)
    plainly = lambda q, k, v: attend_packed(q, k, v, segments, window, scores.scale, scores.softcap)
    (_, found), gradients = jax.jit(loss(by_kernel))(operands)
    (_, expected), plain_gradients = jax.jit(loss(plainly))(operands)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    for one, other in zip(gradients, plain_gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_over_a_mesh_each_device_attends_to_its_own(operands, segments):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    kernel = Kernel("splash", NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "tensor")))
    run = lambda kernel: jax.jit(lambda *o: attend_rows(*o, segments, None, None, Scores(0.25), kernel))(*operands)
    np.testing.assert_allclose(run(kernel), run(SPLASH), atol=1e-6)


def test_new_tokens_of_a_cache_see_what_lies_before_them():
    """Contexts padded on the left, questions on the right, in a cache with room left over."""
    rng, first, new = np.random.default_rng(2), 20, 12
    q = jnp.asarray(rng.normal(size=(3, new, HEADS, WIDTH)), jnp.float32)
    k, v = jnp.asarray(rng.normal(size=(2, 3, KV_HEADS, first + new + 5, WIDTH)), jnp.float32)
    lengths, asked = np.array([0, 7, 20]), np.array([12, 5, 1])
    columns = np.arange(first + new + 5)
    real = (columns >= first - lengths[:, None]) & (columns < first + asked[:, None])
    positions_BS = jnp.asarray(np.where(real, columns - first + lengths[:, None], -1))
    positions_BT = jnp.maximum(positions_BS[:, first : first + new], 0)
    ask = lambda kernel, sliding, scores: attend_cache(
        q, k, v, positions_BT, positions_BS, sliding, scores.window if sliding else None, scores, kernel, first
    )
    for sliding, scores in ((None, Scores(0.25)), (True, Scores(0.25, 2.0, window=6))):
        found, expected = (ask(Kernel(name), sliding, scores) for name in ("splash", "plain"))
        for row, count in enumerate(asked):
            np.testing.assert_allclose(found[row, :count], expected[row, :count], atol=2e-6)


def test_a_model_with_sliding_layers_answers_alike():
    family = Family("x", sliding=(True, False), window=24, attention_softcap=5.0, gated=True)
    sizes = {"vocab_size": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 64, "max_length": 160}
    graphdef, params = decoder.create(DecoderConfig(**sizes, conv=1, family=family), 0)
    asked = [(r.prompt, r.prompt[:5]) for r in requests(6, longest=60)]
    found, plain = (
        Scorer(graphdef, questions=6, attention=name)(params, asked, (5, 9)) for name in ("splash", "plain")
    )
    np.testing.assert_allclose(found, plain, atol=1e-6)


@pytest.fixture
def asked(monkeypatch):
    """What was asked of cuDNN, whose own kernel needs a GPU; XLA answers, which JAX gives the same operands to. Where
    it is asked by offsets, a token that no run covers is no number, as memory that nobody wrote."""
    by_jax, asked = jax.nn.dot_product_attention, []

    def by_xla(*operands, implementation, **settings):
        asked.append(implementation + (" in windows" if settings.get("local_window_size") else ""))
        return by_jax(*operands, implementation="xla", **settings)

    def by_offsets(q, k, v, *, q_seqlen, kv_seqlen, q_offsets, kv_offsets, scale, mask_type, sliding_window_length):
        asked.append(mask_type.name + (" in windows" if sliding_window_length else ""))
        assert q_offsets.shape[1] == q_seqlen.shape[1] + 1
        columns = jnp.arange(q.shape[1])
        from_start = lambda offsets: columns - offsets[:, :-1, None]
        inside = lambda offsets, lengths: (from_start(offsets) >= 0) & (from_start(offsets) < lengths[..., None])
        of_q, of_kv = inside(q_offsets, q_seqlen), inside(kv_offsets, kv_seqlen)
        back = columns[:, None] - columns
        mask = jnp.any(of_q[..., None] & of_kv[:, :, None], axis=1) & (back >= 0)
        mask &= back < (sliding_window_length or LENGTH)
        mixed = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scale)
        return jnp.where(jnp.any(of_q, axis=1)[..., None, None], mixed, jnp.nan)

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    monkeypatch.setattr(cudnn, "_with_offsets", by_offsets)
    monkeypatch.setattr(cudnn, "takes_runs", lambda: True)
    monkeypatch.setattr(cudnn, "takes_windows", lambda: True)
    monkeypatch.setattr(Kernel, "chosen", lambda *_: "cudnn")
    return asked


MESH = Kernel("auto", slots_sharding(make_mesh(MeshConfig(data=4, tensor=2))))


def test_what_gpus_run_is_the_same_attention(operands, segments, asked):
    q, k, v = operands
    columns = jnp.arange(LENGTH)[None]
    mask = causal_mask(columns, columns, 30) & (segments[:, :, None] == segments[:, None])
    plain = attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, 0.25)
    for kernel in (Kernel(), MESH):
        found = jax.jit(lambda *o, kernel=kernel: masked(*o, mask, 0.25, kernel))(q, k, v)
        np.testing.assert_allclose(found, plain, atol=2e-6)
    assert set(asked) == {"cudnn"}


def packed_rows(most: int, padding: int, length: int = LENGTH) -> np.ndarray:
    """Rows of 1, 2, ... segments up to `most`, of which some have one token, with padding behind; one row is empty."""
    rng, rows = np.random.default_rng(most), np.zeros((most + 1, length), int)
    for row in range(1, most + 1):
        cuts = np.sort(rng.choice(np.arange(1, length - padding), row - 1, replace=False))
        rows[row, : length - padding] = 1 + np.searchsorted(cuts, np.arange(length - padding), side="right")
    return rows


@pytest.mark.parametrize(("most", "padding"), [(1, 11), (2, 3), (7, 0), (40, 20)])
@pytest.mark.parametrize(("window", "slides"), [(0, None), (30, True), (30, False), (LENGTH, True)])
@pytest.mark.parametrize("told", [True, pytest.param(False, marks=pytest.mark.long)])
def test_cudnn_keeps_to_segments_in_rows_of_many(monkeypatch, asked, most, padding, window, slides, told):
    """What it is told against matrix products, forward and backward. Rows of too many segments, or of nobody knows how
    many, have a mask in memory, and so have models whose layers slide where it cannot be told of windows; a window as
    wide as the row leaves nothing out."""
    monkeypatch.setattr(cudnn, "takes_windows", lambda: told)
    segments, rng = jnp.asarray(packed_rows(most, padding)), np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(rng.normal(size=(len(segments), LENGTH, heads, WIDTH)), jnp.float32)
    q, k, v = draw(HEADS), draw(KV_HEADS), draw(KV_HEADS)
    real, scores = (segments > 0)[..., None, None], Scores(0.25, window=window)
    sliding = None if slides is None else jnp.asarray(slides)
    seen = jnp.asarray(window if slides else LENGTH) if window else None

    def loss(function):
        scalar = lambda *operands: jnp.sum(jnp.where(real, jnp.sin(function(*operands)), 0))
        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2)))(q, k, v)

    plain = loss(lambda *o: attend_packed(*o, segments, seen, 0.25))
    for said, by in ((most, "PADDING_CAUSAL"), (0, "cudnn"), (cudnn.MOST_RUNS, "cudnn")):
        asked.clear()
        kernel = Kernel(segments=said)
        found = loss(lambda *o, kernel=kernel: attend_rows(*o, segments, sliding, seen, scores, kernel))
        if not 0 < window < LENGTH:
            assert set(asked) == {"cudnn" if said == 1 else by}
        elif told and said in (1, most):
            name = "cudnn" if said == 1 else by
            assert set(asked) == {name, f"{name} in windows"}, "the program alone knows which layers slide"
        else:
            assert set(asked) == {"cudnn"}
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-5), found, plain)


def test_cudnn_gives_no_number_where_there_are_more_segments_than_said(asked, operands):
    for there, said, right in ((1, 1, True), (2, 1, False), (3, 3, True), (4, 3, False), (4, 4, True)):
        segments = jnp.asarray(packed_rows(there, 5)[[there] * ROWS])
        for kernel in (Kernel(segments=said), replace(MESH, segments=said)):
            attended = jax.jit(lambda *o, s=segments, k=kernel: attend_rows(*o, s, None, None, Scores(0.25), k))
            assert bool(jnp.all(jnp.isfinite(attended(*operands)))) == right, (there, said)


def test_a_prompt_that_is_padded_on_the_left_needs_no_mask(asked, operands):
    q, k, v = operands
    before = jnp.array([0, 3, 100, LENGTH])[:, None]
    positions = jnp.maximum(jnp.arange(LENGTH) - before, -1)
    ask = lambda: attend_cache(
        q, k.swapaxes(1, 2), v.swapaxes(1, 2), jnp.maximum(positions, 0), positions, None, None, Scores(0.25), MESH, 0
    )
    found, real = jax.jit(ask)(), np.asarray(positions >= 0)
    assert set(asked) == {"PADDING_CAUSAL"}
    segments = (positions >= 0).astype(int)
    np.testing.assert_allclose(found[real], attend_packed(q, k, v, segments, None, 0.25)[real], atol=2e-6)


def test_where_runs_are_and_whether_these_are_all():
    starts, lengths, fits = cudnn.runs(jnp.array([[1, 1, 2, 0, 0], [3, 3, 3, 3, 3]]), 3)
    assert starts.tolist() == [[0, 2, 3], [0, -1, -1]] and lengths.tolist() == [[2, 1, 2], [5, -1, -1]] and fits
    starts, lengths, fits = cudnn.runs(jnp.array([[1, 2]]), 4)
    assert starts.tolist() == [[0, 1, -1, -1]] and lengths.tolist() == [[1, 1, -1, -1]] and fits
    assert not cudnn.runs(jnp.array([[1, 2, 1]]), 2)[2]


def test_the_kernel_is_the_devices_own_where_it_can_be(monkeypatch):
    choose = lambda kernel, rows=8, kv_heads=2: kernel.chosen(
        jnp.zeros((rows, 64, 8, 16)), kv_heads, 64, Scores(0.25)
    )
    assert choose(Kernel()) == "plain"
    assert choose(SPLASH) == "splash"
    mesh = Kernel("splash", slots_sharding(make_mesh(MeshConfig(data=2, tensor=4))))
    assert choose(mesh) == "plain", "two heads cannot be split in four"
    assert choose(mesh, kv_heads=4) == "splash"
    assert choose(mesh, kv_heads=4, rows=3) == "plain"
    assert choose(Kernel("triton")) == "plain", "which decodes, and leaves other tokens to what auto chooses"
    with pytest.raises(ValueError, match=r"cudnn needs a GPU and here is a cpu; leave it at auto"):
        choose(Kernel("cudnn"))
    monkeypatch.setattr(Kernel, "platform", property(lambda kernel: "tpu"))
    with pytest.raises(ValueError, match=r"triton needs a GPU and here is a tpu; leave it at auto"):
        choose(Kernel("triton"))


@pytest.mark.parametrize(
    ("width", "length", "dtype", "softcap", "runs"),
    [(64, 32, "bfloat16", 0.0, "cudnn"), (20, 32, "bfloat16", 0.0, "plain"), (256, 32, "bfloat16", 0.0, "plain"),
     (64, 33, "bfloat16", 0.0, "plain"), (64, 32, "float32", 0.0, "plain"), (64, 32, "bfloat16", 5.0, "plain")],
)
def test_what_cudnn_refuses_is_left_to_matrix_products(monkeypatch, width, length, dtype, softcap, runs):
    monkeypatch.setattr(Kernel, "platform", "gpu")
    q = jnp.zeros((2, length, 4, width), dtype)
    for capability, chosen in (("8.0", runs), ("9.0", runs), ("7.5", "plain"), ("gfx942", "plain")):
        monkeypatch.setattr(jax, "local_devices", lambda of=capability: [SimpleNamespace(compute_capability=of)])
        assert Kernel().chosen(q, 2, length, Scores(0.25, softcap)) == chosen

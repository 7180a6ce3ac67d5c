"""The kernel that GPUs decode with, by the interpreter, and what is lowered for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import awaken, compiling, requests

from ratchet.models import cudnn, decoder, triton
from ratchet.models.attention import attend
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.kernels import Kernel, Scores
from ratchet.models.sampler import Request, Sampler
from ratchet.models.triton import Shared
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding

HEADS, KV_HEADS, WIDTH = 6, 2, 16
COLUMNS, NEW = 48, 21
"""Columns of prompts, and of a ring that ends within a block."""
BY_TRITON = Kernel("triton")
STOP = (1,)


def ring(rng, prompts, said, turned):
    """Rows that read so many tokens, padded on the left, and said so many in a ring that began at `turned`: keys,
    values, the position of each column, and that of the last token."""
    rows = len(prompts)
    k, v = jnp.asarray(rng.normal(size=(2, rows, KV_HEADS, COLUMNS + NEW, WIDTH)), jnp.float32)
    positions = np.full((rows, COLUMNS + NEW), -1)
    for row, (read, spoken, start) in enumerate(zip(prompts, said, turned, strict=True)):
        positions[row, COLUMNS - read : COLUMNS] = np.arange(read)
        positions[row, COLUMNS + (start + np.arange(spoken)) % NEW] = read + np.arange(spoken)
    return k, v, jnp.asarray(positions), jnp.asarray(np.max(positions, axis=1, keepdims=True))


def of(prints, busy=None):
    """Prompts with such fingerprints, of rows that are at work unless it is said of them that they are not."""
    words = jnp.stack([jnp.array(prints, jnp.uint32), jnp.full(len(prints), 7, jnp.uint32)], axis=1)
    return Shared(words, jnp.array([True] * len(prints) if busy is None else busy), COLUMNS)


@pytest.mark.parametrize("programs", [1, 512])
@pytest.mark.parametrize(("window", "scores"), [(0, Scores(0.3)), (9, Scores(0.3, window=9)), (0, Scores(2.0, 3.0))])
def test_a_ring_is_attended_to_as_matrix_products_do(monkeypatch, programs, window, scores):
    monkeypatch.setattr(triton, "PROGRAMS", programs)
    rng = np.random.default_rng(0)
    k, v, positions_BS, at_B1 = ring(rng, [1, 16, 17, COLUMNS, 30], [1, 5, NEW, 2, 20], [0, 19, 3, 0, 10])
    q = jnp.asarray(rng.normal(size=(5, 1, HEADS, WIDTH)), jnp.float32)
    mask = (positions_BS >= 0) & (at_B1 - positions_BS < (window or 1000))
    expected = attend(q, k, v, mask[:, None], scores.scale, scores.softcap)
    run = jax.jit(lambda *o: triton.attend(*o, window, scores, BY_TRITON, of(range(5))))
    np.testing.assert_allclose(run(q, k, v, at_B1, positions_BS), expected, atol=2e-6)


def test_a_prompt_is_read_from_the_first_row_at_work_that_has_it_and_from_no_other():
    """What others hold of it is no number, which would show; nor is anything that a row holds which is not at work."""
    rng = np.random.default_rng(1)
    k, v, positions_BS, at_B1 = ring(rng, [20, 20, 33, 20, 33], [4, 9, 2, 7, 5], [0, 3, 20, 0, 1])
    same, busy = [0, 0, 2, 0, 2], [False, True, True, True, True]
    q = jnp.asarray(rng.normal(size=(5, 1, HEADS, WIDTH)), jnp.float32)
    first = np.array([0, 1, 2, 1, 2])
    prompt = jnp.arange(COLUMNS + NEW)[None, None, :, None] < COLUMNS
    whole = [jnp.where(prompt, x[first], x) for x in (k, v)]
    expected = attend(q, *whole, (positions_BS >= 0)[:, None], 0.3)
    of_others = (prompt & (jnp.arange(5) != first)[:, None, None, None]) | ~jnp.array(busy)[:, None, None, None]
    holes = [jnp.where(of_others, jnp.nan, x) for x in (k, v)]
    found = triton.attend(q, *holes, at_B1, positions_BS, 0, Scores(0.3), BY_TRITON, of(same, busy))
    np.testing.assert_allclose(found[1:], expected[1:], atol=2e-6)
    assert not np.any(found[0])
    assert triton.leaders(*of(same, busy)[:2])[1:].tolist() == first[1:].tolist()


def test_columns_without_a_token_are_not_read_and_a_row_without_any_gives_numbers():
    rng = np.random.default_rng(2)
    k, v, positions_BS, at_B1 = ring(rng, [3, 16], [1, 2], [0, 0])
    q = jnp.asarray(rng.normal(size=(2, 1, HEADS, WIDTH)), jnp.float32)
    empty = (np.arange(COLUMNS + NEW) // 16 < 2)[None, None, :, None]  # both prompts lie in the third block
    holes = [jnp.where(empty, jnp.nan, x) for x in (k, v)]
    expected = attend(q, k, v, (positions_BS >= 0)[:, None], 0.3)
    found = triton.attend(q, *holes, at_B1, positions_BS, 0, Scores(0.3), BY_TRITON, of([0, 1]))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    none = triton.attend(q, k, v, at_B1, jnp.full_like(positions_BS, -1), 0, Scores(0.3), BY_TRITON, of([0, 1]))
    assert np.isfinite(none).all()


def test_where_it_is_asked_for_and_fits(monkeypatch):
    def fits(kernel=BY_TRITON, rows=8, kv_heads=2, width=64, columns=96, dtype="float32"):
        return triton.fits(kernel, rows, kv_heads, width, columns, dtype)

    assert fits() and fits(width=256) and fits(dtype="bfloat16") and fits(columns=16)
    assert not fits(Kernel()) and not fits(Kernel("plain")) and not fits(columns=24)
    assert not fits(width=8) and not fits(width=96) and not fits(width=512)
    spread = Kernel("triton", slots_sharding(make_mesh(MeshConfig(data=2, tensor=4))))
    assert fits(spread, kv_heads=4) and not fits(spread) and not fits(spread, rows=3, kv_heads=4)
    monkeypatch.setattr(Kernel, "platform", property(lambda kernel: "gpu"))
    for capability, runs in ((9.0, True), (7.5, False)):
        monkeypatch.setattr(cudnn, "capability", lambda of=capability: of)
        assert fits(dtype="bfloat16") == runs and not fits()
    monkeypatch.setattr(Kernel, "platform", property(lambda kernel: "tpu"))
    assert not fits() and not fits(dtype="bfloat16")


def model(**more):
    family = Family("x", sliding=(True, False), window=12, attention_softcap=5.0, gated=True)
    sizes = {"vocab_size": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 64, "max_length": 160}
    return DecoderConfig(**sizes | {"head_width": WIDTH, "conv": 3, "family": family} | more)


@pytest.fixture(scope="module")
def small():
    graphdef, params = decoder.create(model(), 0)
    return graphdef, awaken(params)


@pytest.fixture(scope="module")
def asked():
    """Prompts of two lengths, three times each, in another order than slots take them, and some of their own."""
    shared = [*requests(2, longest=40), *requests(1, seed=1, shortest=60, longest=90)]
    alike = [Request(10 * n + copy, r.prompt) for copy in range(3) for n, r in enumerate(shared)]
    return [*alike, *(Request(100 + r.id, r.prompt) for r in requests(4, seed=5, longest=30))]


def test_slots_say_what_they_say_by_matrix_products(small, asked):
    """Slots are taken again, by requests with the same prompt and with others."""
    made = {name: Sampler(small[0], slots=4, new_tokens=9, keep=6, attention=name) for name in ("triton", "plain")}
    assert made["triton"].shares(model(), 64) and not made["plain"].shares(model(), 64)
    told = {name: one(small[1], asked, seed=3, temperature=1.0, stop=STOP) for name, one in made.items()}
    for a, b in zip(told["triton"], told["plain"], strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


def test_a_prompt_that_is_read_in_several_queues_lies_alike_in_all_of_them():
    """Without convolutions, long beginnings that prompts share would be read apart, with padding behind them."""
    graphdef, params = decoder.create(model(conv=1, max_length=400, family=Family("x", gated=True)), 0)
    rng, made = np.random.default_rng(0), []
    drawn = lambda count: tuple(rng.integers(2, 64, count).tolist())
    begins = drawn(256)
    prompts = sorted((*begins, *drawn(30)) for _ in range(8))
    asked = [*map(Request, range(8), prompts), *(Request(100 + n, prompts[-1]) for n in range(6))]
    for name in ("triton", "plain"):
        sampler = Sampler(graphdef, slots=8, new_tokens=40, keep=6, attention=name)
        made.append(sampler(awaken(params), asked, seed=3, temperature=1.0, stop=(1, 2, 3)))
    for a, b in zip(*made, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


@pytest.mark.parametrize(("sizes", "shares"), [({"data": 2, "tensor": 2}, True), ({"data": 2, "tensor": 4}, False)])
def test_slots_over_a_mesh_say_the_same(small, asked, sizes, shares):
    """Two heads of keys cannot be split in four: matrix products attend."""
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: sizes["data"] * sizes["tensor"]])
    params = jax.device_put(small[1], state_sharding(mesh, small[1]))
    alone, spread = (
        Sampler(small[0], slots=4, new_tokens=5, keep=6, attention="triton", rows=rows)
        for rows in (None, slots_sharding(mesh))
    )
    assert spread.shares(model(), 96) == shares
    told = [one(w, asked, seed=3, temperature=1.0, stop=STOP) for one, w in ((alone, small[1]), (spread, params))]
    for a, b in zip(*told, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


def test_what_is_compiled_ahead_is_what_runs(small, asked):
    made = Sampler(small[0], slots=4, new_tokens=5, keep=0, attention="triton")
    columns = made.columns(model(), max(len(r.prompt) for r in asked))
    with compiling() as before:
        made.compile(made.weights(small[1]), columns, 0)
    with compiling() as after:
        made(small[1], asked, seed=0, temperature=1.0, stop=STOP)
    assert "jit(dispatch)" in before and "jit(dispatch)" not in after


@pytest.mark.parametrize("width", [64, 128, 256])
def test_a_step_of_decoding_is_lowered_for_gpus_as_one_kernel_a_layer(monkeypatch, width):
    """And no array of scores, a number for each head and column, is in memory. One layer slides, scores are capped."""
    monkeypatch.setattr(Kernel, "platform", property(lambda kernel: "gpu"))
    config, rows, length = model(head_width=width, conv=1), 8, 128 + 56
    graphdef, params = decoder.shapes(config)

    def step(params, tokens, cache, column, prints, busy, attention):
        made, shared = nnx.merge(graphdef, params), Shared(prints, busy, 128) if attention == "triton" else None
        return made.extend(made.unstacked(), tokens, busy[:, None], cache, column, Kernel(attention), shared)

    def lowered(attention):
        half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
        cache = jax.eval_shape(lambda p: nnx.merge(graphdef, p).new_cache(rows, length), half)
        ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
        prints, busy = jax.ShapeDtypeStruct((rows, 2), jnp.uint32), jax.ShapeDtypeStruct((rows,), bool)
        traced = jax.jit(step, static_argnums=6).trace(half, ints(rows, 1), cache, ints(), prints, busy, attention)
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    by_triton, plain = lowered("triton"), lowered("plain")
    scores = f"{rows}x{config.kv_heads}x{config.heads // config.kv_heads}x1x{length}"
    assert by_triton.count("custom_call @__gpu$xla.gpu.triton") == config.layers
    assert scores not in by_triton and scores in plain and "triton" not in plain

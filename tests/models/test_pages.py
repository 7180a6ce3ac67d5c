"""TPU's kernel over pages, by the interpreter; that it compiles, and copies no cache, is in launch/test_preflight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel as ragged
from support import awaken, full_probs, requests

from ratchet.models import decoder, pages, slots
from ratchet.models.attention import attend
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.kernels import Kernel, Scores
from ratchet.models.sampler import Request, Sampler
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding

ROWS, HEADS, KV_HEADS, WIDTH = 6, 4, 2, 128
LENGTH = 6 * pages.PAGE
STOP, AUTO = (1,), Kernel()


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    """The device is said to be a TPU, and an interpreter runs the kernels of a step. It knows neither references that
    are reshaped nor parts of references that are stored to by a mask: both are done on arrays. Prompts are read by
    matrix products: batches of splash are beyond it."""

    def arrived(copy):
        for one in copy._async_copies:
            one.wait()
        return copy._vmem_buf[...]

    def store(ref, value, mask):
        ref[...] = jnp.where(mask, value, ref[...])

    monkeypatch.setattr(ragged.MultiPageAsyncCopyDescriptor, "wait", arrived)
    monkeypatch.setattr(pltpu, "store", store)
    monkeypatch.setattr(Kernel, "platform", property(lambda kernel: "tpu"))
    monkeypatch.setattr(Kernel, "chosen", lambda *operands: "plain")
    with pltpu.force_tpu_interpret_mode():
        yield


def columns(rng, lengths):
    """Keys and values of rows padded on the left, with their positions."""
    k, v = jnp.asarray(rng.normal(size=(2, len(lengths), KV_HEADS, LENGTH, WIDTH)), jnp.float32)
    positions = np.arange(LENGTH) - (LENGTH - np.array(lengths)[:, None])
    return k, v, jnp.asarray(np.maximum(positions, -1))


@pytest.mark.parametrize(
    ("sliding", "scores"),
    [(False, Scores(0.1)), (True, Scores(0.1, window=70)), (False, Scores(0.1, softcap=2.0, window=70))],
)
def test_pages_are_attended_to_as_matrix_products_do(sliding, scores):
    block = pages.PAGE * pages.PAGES_AT_ONCE
    rng, lengths = np.random.default_rng(0), [1, pages.PAGE, pages.PAGE + 1, block, block + 90, LENGTH]
    k, v, positions_BS = columns(rng, lengths)
    q = jnp.asarray(rng.normal(size=(ROWS, 1, HEADS, WIDTH)), jnp.float32)
    at_B = jnp.array(lengths) - 1
    mask = positions_BS >= 0
    if sliding:
        mask &= at_B[:, None] - positions_BS < scores.window
    expected = attend(q, k, v, mask[:, None], scores.scale, scores.softcap)
    packed = pages.of_columns(k, v, positions_BS, LENGTH + pages.PAGE)
    found = jax.jit(lambda q, p: pages.attend(q, p, at_B, sliding, scores, Kernel()))(q, packed)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_token_is_written_in_its_place_and_nowhere_else():
    rng, at = np.random.default_rng(1), [0, 5, pages.PAGE, 130, 300, LENGTH - 1]
    before = pages.of_columns(*columns(rng, [3, 5, pages.PAGE, 130, 300, LENGTH]), LENGTH)
    k, v = jnp.asarray(rng.normal(size=(2, ROWS, 1, KV_HEADS, WIDTH)), jnp.float32)
    after = jax.jit(lambda p: pages.written(p, k, v, jnp.array(at), Kernel()))(before)
    expected = np.array(before.both).reshape(ROWS, LENGTH, 2 * KV_HEADS, WIDTH)
    for row, column in enumerate(at):
        expected[row, column, 0::2], expected[row, column, 1::2] = k[row, 0], v[row, 0]
    np.testing.assert_array_equal(np.reshape(after.both, expected.shape), expected)


@pytest.fixture(scope="module")
def wide():
    """A decoder whose heads are as wide as TPU's lanes, with one sliding layer."""
    family = Family("x", sliding=(True, False), window=12, attention_softcap=5.0, gated=True)
    config = DecoderConfig(vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, mlp_width=64, head_width=WIDTH,
                           max_length=160, conv=3, family=family)
    graphdef, params = decoder.create(config, 0)
    return graphdef, awaken(params)


@pytest.mark.long
def test_slots_with_pages_say_what_slots_with_a_ring_say(wide):
    """Prompts of one page and of two, answers that go on in a new one, slots that are taken again, a shared prompt."""
    asked = [*requests(3, longest=40), *requests(2, seed=1, shortest=60, longest=90)]
    asked += [Request(7, asked[0].prompt), Request(8, tuple(range(2, pages.PAGE)))]
    paged, ring = (Sampler(wide[0], slots=4, new_tokens=6, keep=6, attention=name) for name in ("auto", "plain"))
    assert paged.paged(nnx.merge(*wide).config) and not ring.paged(nnx.merge(*wide).config)
    told = [make(wide[1], asked, seed=3, temperature=1.0, stop=STOP) for make in (paged, ring)]
    assert len(asked[-1].prompt) + len(told[0][-1].tokens) > pages.PAGE
    for a, b in zip(*told, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


@pytest.mark.long
def test_pages_over_a_mesh_say_the_same(wide):
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    params = jax.device_put(wide[1], state_sharding(mesh, wide[1]))
    asked = requests(5, longest=20)
    sizes = {"slots": 4, "new_tokens": 2, "keep": 6}
    alone = Sampler(wide[0], **sizes)(wide[1], asked, seed=3, temperature=1.0, stop=STOP)
    spread = Sampler(wide[0], **sizes, rows=slots_sharding(mesh))(params, asked, seed=3, temperature=1.0, stop=STOP)
    for r, a, b in zip(asked, alone, spread, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs[0].max(), full_probs(*wide, r.prompt)[-1].max(), atol=1e-5)


def test_where_the_kernel_does_not_fit_slots_keep_a_ring():
    """What TPU's compiler refuses, though the kernel does not."""
    fits = lambda kernel=AUTO, rows=8, heads=8, kv_heads=2, width=128, dtype="bfloat16": pages.fits(
        kernel, rows, heads, kv_heads, width, dtype
    )
    assert fits() and fits(Kernel("splash")) and not fits(Kernel("plain"))
    assert not fits(width=64) and not fits(width=256) and not fits(kv_heads=3) and fits(kv_heads=8)
    assert not fits(kv_heads=8, dtype="float32") and fits(heads=16, kv_heads=8, dtype="float32")
    assert fits(heads=4, kv_heads=4, dtype="float32") and not fits(rows=2048)
    mesh = Kernel("auto", slots_sharding(make_mesh(MeshConfig(data=2, tensor=4))))
    assert fits(mesh, kv_heads=8) and not fits(mesh, kv_heads=2) and not fits(mesh, rows=3, kv_heads=8)
    assert not slots.Plan(None, slots=8, new_tokens=4, keep=0, int8=True).paged(DecoderConfig(head_width=128))

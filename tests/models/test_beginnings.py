"""What prompts begin with alike is read once, and nothing else is said for it."""

import random

import jax
import numpy as np
import pytest
from support import awaken

from ratchet.models import beginnings, decoder, slots
from ratchet.models.beginnings import LEAST, lengths, split
from ratchet.models.decoder import DecoderConfig
from ratchet.models.inference import Inference
from ratchet.models.sampler import Request, Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding


@pytest.fixture(autouse=True)
def anything_saved(monkeypatch):
    """Beginnings are read apart however few columns that saves."""
    monkeypatch.setattr(beginnings, "SAVED", 0)


def prompts(seed: int, kinds: int, count: int, shared: int, longest: int = 40) -> list[tuple[int, ...]]:
    """Prompts of some kinds, which begin alike."""
    rng = random.Random(seed)
    some = lambda n: tuple(rng.choices(range(2, 64), k=n))
    begun = [some(shared) for _ in range(kinds)]
    return [begun[n % kinds] + some(rng.randint(1, longest)) for n in range(count)]


def joined(made) -> list[tuple[int, ...]]:
    rows = zip(made.begun_A, made.rest_AR, made.real_AR, strict=True)
    return [(*made.begun_EL[at].tolist(), *rest[real].tolist()) for at, rest, real in rows if real.any()]


@pytest.mark.parametrize("seed", range(20))
def test_the_two_parts_of_prompts_are_the_prompts(seed):
    rng = random.Random(seed)
    parts = []
    for part in range(rng.randint(1, 3)):
        own = prompts(10 * seed + part, rng.randint(1, 4), rng.randint(1, 8), rng.choice([0, 20, 140, 300]))
        parts.append([None if rng.random() < 0.2 else p for p in own])
    width = max((len(p) for own in parts for p in own if p), default=0) + rng.randint(0, 20)
    made = split(parts, 8, width, 32, apart=True)
    assert [joined(of) for of in made] == [[p for p in own if p] for own in parts]
    shapes = {tuple(x.shape for x in of) for of in made}
    ((count, length), _, (rows, rest), _), = shapes
    assert length % 32 == 0 and length + rest == width and rows == 8
    assert not length or (length >= LEAST and count * length + rows * rest < 0.75 * rows * width)
    assert split(parts, 8, width, 32, apart=False)[0].begun_EL.size == 0


def test_a_beginning_that_saves_too_little_is_read_with_each_prompt(monkeypatch):
    one_kind = [prompts(0, 1, 8, 200)]
    ((of,), columns) = split(one_kind, 8, 256, 32, apart=True), 8 * 256
    saved = columns - of.begun_EL.size - of.rest_AR.size
    assert of.begun_EL.shape == (1, 192) and saved == 7 * 192
    monkeypatch.setattr(beginnings, "SAVED", saved)
    assert not split(one_kind, 8, 256, 32, apart=True)[0].begun_EL.size


def test_prompts_that_begin_alike_are_sorted_together_where_that_helps():
    of = prompts(0, 2, 12, 200, longest=30)
    rough = lengths(of, 32, apart=True)
    assert set(rough) == {256} and all(a >= len(p) for a, p in zip(rough, of, strict=True))
    assert lengths(of, 32, apart=False) == [len(p) for p in of]
    assert lengths([p[:LEAST] for p in of], 32, apart=True) == [LEAST] * 12


@pytest.fixture(scope="module")
def plain():
    """A model without convolutions, as all of folders are."""
    sizes = {"vocab_size": 64, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "mlp_width": 64}
    graphdef, params = decoder.create(DecoderConfig(**sizes, conv=1, max_length=512), 0)
    return graphdef, awaken(params)


@pytest.fixture
def whole(monkeypatch):
    """Reads every prompt by itself from now on."""
    return lambda: monkeypatch.setattr(Inference, "reads_apart", lambda self, config: False)


@pytest.mark.parametrize("int8", [False, True])
def test_what_is_sampled_is_the_same_and_less_is_read(plain, whole, monkeypatch, int8):
    asked = [Request(n, p) for n, p in enumerate(prompts(1, 2, 10, 200))]
    read, prefill = [], slots.prefill
    monkeypatch.setattr(slots, "prefill", lambda *a, **k: read.append(a[1]) or prefill(*a, **k))
    make = Sampler(plain[0], slots=8, new_tokens=8, keep=4, int8=int8)
    sample = lambda: make(plain[1], asked, seed=2, temperature=1.0, stop=(1,))
    apart, columns = sample(), sum(of.begun_EL.size + of.rest_AR.size for of in read)
    read.clear()
    whole()
    alone = sample()
    assert columns < 0.6 * sum(of.rest_AR.size for of in read)
    for a, b in zip(apart, alone, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-2 if int8 else 1e-5)


def test_what_is_scored_is_the_same_over_a_mesh_too(plain, whole):
    given = [(p, (5, 9, 7)[: 1 + n % 3]) for n, p in enumerate(prompts(3, 3, 14, 160))]
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spread = Scorer(plain[0], questions=8, rows=slots_sharding(mesh))
    params = jax.device_put(plain[1], state_sharding(mesh, plain[1]))
    one = Scorer(plain[0], questions=8)
    apart = [*one.log_likelihoods(plain[1], given), *spread.log_likelihoods(params, given)]
    whole()
    for found, expected in zip(apart, 2 * one.log_likelihoods(plain[1], given), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)

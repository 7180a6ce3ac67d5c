import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from support import full_logits, full_probs, requests

from ratchet.launch.preflight.collectives import collectives
from ratchet.models import decoder, slots
from ratchet.models.decoder import DecoderConfig
from ratchet.models.grammar import Grammar, Pieces
from ratchet.models.sampler import Request, Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding

STOP = (1,)


def sampler(small, **sizes):
    return Sampler(small[0], **{"slots": 4, "new_tokens": 12, "keep": 6, "bucket": 16} | sizes)


def said(sampled):
    return [(s.tokens.tolist(), s.finished, s.stop) for s in sampled]


def test_a_request_says_the_same_whatever_its_slot_order_and_neighbours(small):
    asked = requests(11)
    make = sampler(small)
    together = make(small[1], asked, seed=3, temperature=1.0, stop=STOP)
    backwards = make(small[1], asked[::-1], seed=3, temperature=1.0, stop=STOP)[::-1]
    alone = [make(small[1], [r], seed=3, temperature=1.0, stop=STOP)[0] for r in asked]
    assert said(together) == said(backwards) == said(alone)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-6)  # sums over a ring begin elsewhere


def test_randomness_comes_from_seed_and_request_id(small):
    prompt = requests(1)[0].prompt
    make = sampler(small, slots=8)
    ids = [Request(i, prompt) for i in range(8)]
    first, again, other = (said(make(small[1], ids, seed=s, temperature=1.0, stop=STOP)) for s in (1, 1, 2))
    assert first == again != other
    assert len({str(row) for row in first}) > 4


def test_greedy_takes_the_likeliest_token_of_the_full_forward(small):
    asked = requests(4)
    for r, s in zip(asked, sampler(small)(small[1], asked, seed=0, temperature=0.0, stop=STOP), strict=True):
        tokens = [*s.tokens.tolist(), *([s.stop] if s.finished else [])]
        logits = full_logits(*small, [*r.prompt, *tokens])[len(r.prompt) - 1 : -1]
        assert tokens == logits.argmax(-1).tolist()


def test_id_0_is_a_token_like_any_other(small):
    asked = [Request(i, prompt) for i, prompt in enumerate([(0, 5, 0), (5, 0), (0,)])]
    for r, s in zip(asked, sampler(small)(small[1], asked, seed=0, temperature=0.0, stop=()), strict=True):
        np.testing.assert_allclose(s.probs[0].max(), full_probs(*small, r.prompt)[-1].max(), atol=1e-5)
    found = Scorer(small[0], questions=4)(small[1], [((0, 5), (0,))], (5, 9))
    np.testing.assert_allclose(found[0], full_probs(*small, (0, 5, 0))[-1][[5, 9]], atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ids_that_no_token_has_are_never_drawn_and_have_no_probability(small, temperature):
    """As if the model had no such rows, even where they are the likeliest."""
    unused, asked = (7, 60, 61, 62, 63), requests(8)
    far = lambda path, x: x.at[np.array(unused)].multiply(40.0) if "embedding" in str(path) else x
    params = jax.tree_util.tree_map_with_path(far, small[1])
    asked = [Request(r.id, tuple(min(t, 59) if t != 7 else 8 for t in r.prompt)) for r in asked]
    plain, made = sampler(small), sampler(small, unused=unused)
    call = {"seed": 0, "temperature": temperature, "stop": STOP}
    assert any(set(unused) & {*s.tokens.tolist()} for s in plain(params, asked, **call)), "the rows are likely"
    for r, s in zip(asked, made(params, asked, **call), strict=True):
        tokens = [*s.tokens.tolist(), *([s.stop] if s.finished else [])]
        assert not {*tokens, *s.ids[s.probs > 0].tolist()} & {*unused}
        probs = full_probs(small[0], params, [*r.prompt, *tokens])[len(r.prompt) - 1 : -1]
        probs[:, unused] = 0
        want = np.take_along_axis(probs / probs.sum(-1, keepdims=True), s.ids, axis=1)
        np.testing.assert_allclose(s.probs, want, atol=1e-4)


def test_captured_distributions_are_those_before_the_temperature(small):
    asked = requests(6, seed=5)
    for r, s in zip(asked, sampler(small)(small[1], asked, seed=0, temperature=2.5, stop=STOP), strict=True):
        tokens = [*s.tokens.tolist(), *([s.stop] if s.finished else [])]
        probs = full_probs(*small, [*r.prompt, *tokens])[len(r.prompt) - 1 : -1]
        assert len(s.ids) == len(tokens)
        assert all(token in ids for token, ids in zip(tokens, s.ids, strict=True))
        np.testing.assert_allclose(s.probs, np.take_along_axis(probs, s.ids, axis=1), atol=1e-5)
        np.testing.assert_allclose(s.probs.sum(-1) + s.tail, 1.0, atol=1e-5)
        assert (s.probs.argmax(-1) == 0).mean() > 0.5  # most likely first, but for an emitted rarity at the end


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_are_drawn_from_the_warped_distribution(small, temperature):
    prompt = requests(1, seed=9)[0].prompt
    drawn = sampler(small, slots=512, new_tokens=1)(
        small[1], [Request(i, prompt) for i in range(2048)], seed=0, temperature=temperature, stop=()
    )
    seen = np.bincount([int(s.tokens[0]) for s in drawn], minlength=64) / len(drawn)
    warped = full_probs(*small, prompt)[-1] ** (1 / temperature)
    assert np.abs(seen - warped / warped.sum()).sum() / 2 < 0.08


def test_sampling_ends_at_a_stop_token_and_says_so(small):
    every = tuple(range(64))
    for s in sampler(small)(small[1], requests(3), seed=0, temperature=1.0, stop=every):
        assert s.finished and len(s.tokens) == 0 and s.stop in every
        assert len(s.ids) == len(s.probs) == len(s.tail) == 1
    free = sampler(small)(small[1], requests(3), seed=0, temperature=1.0, stop=())
    stop = int(free[0].tokens[5])
    cut = sampler(small)(small[1], requests(3), seed=0, temperature=1.0, stop=(stop,))[0]
    first = free[0].tokens.tolist().index(stop)
    assert cut.finished and cut.stop == stop and cut.tokens.tolist() == free[0].tokens[:first].tolist()


def test_a_sequence_cut_by_the_length_limit_is_marked(small):
    for s in sampler(small)(small[1], requests(3), seed=0, temperature=1.0, stop=()):
        assert not s.finished and len(s.tokens) == len(s.ids) == 12


def test_a_prompt_of_many_requests_is_read_once_and_they_say_what_each_says_alone(small, monkeypatch):
    asked = [Request(1000 * i + n, r.prompt) for i, r in enumerate(requests(3, shortest=5)) for n in range(8)]
    read = []
    prefill = slots.prefill
    monkeypatch.setattr(slots, "prefill", lambda *a, **k: read.append(a[1].real_AR) or prefill(*a, **k))
    together = sampler(small, slots=8)(small[1], asked, seed=1, temperature=1.0, stop=STOP)
    assert sum(real.any(axis=1).sum() for real in read) <= 3 + 2  # a queue may end inside a prompt's requests
    alone = [sampler(small, slots=8)(small[1], [r], seed=1, temperature=1.0, stop=STOP)[0] for r in asked]
    assert said(together) == said(alone)


def test_what_was_said_has_the_log_probabilities_that_a_scorer_gives_it(small):
    asked = requests(5)
    found = sampler(small, keep=2)(small[1], asked, seed=0, temperature=2.0, stop=())
    given = [(r.prompt, tuple(s.tokens.tolist())) for r, s in zip(asked, found, strict=True)]
    expected = Scorer(small[0], questions=8).log_likelihoods(small[1], given)
    np.testing.assert_allclose([s.log_likelihoods for s in found], expected, atol=1e-5)


def test_free_slots_take_the_next_request_inside_a_dispatch(small):
    make = sampler(small, slots=4, new_tokens=48)
    found = make(small[1], requests(40), seed=0, temperature=1.0, stop=(1, 2, 3))
    lengths = [len(s.probs) for s in found]
    meter = make.meter
    assert min(lengths) < 6 and max(lengths) > 40  # as skewed as makes a batch wait for its longest
    assert meter.working == sum(lengths) and meter.slots == 4 * meter.steps
    assert meter.busy > 0.85
    assert meter.dispatches <= meter.steps / slots.LEAST_STEPS + 1


def test_cuts_leave_out_unlikely_tokens(small):
    prompt = requests(1, seed=9)[0].prompt
    asked = [Request(i, prompt) for i in range(64)]
    best = set(np.argsort(-full_probs(*small, prompt)[-1])[:3].tolist())
    one = sampler(small, slots=64, new_tokens=1)
    assert {int(s.tokens[0]) for s in one(small[1], asked, seed=0, temperature=3.0, stop=(), top_k=3)} == best
    assert not {int(s.tokens[0]) for s in one(small[1], asked, seed=0, temperature=3.0, stop=())} <= best


def test_without_capture_the_same_is_said(small):
    asked = requests(5)
    bare = sampler(small, keep=0)(small[1], asked, seed=0, temperature=1.0, stop=STOP)
    assert said(bare) == said(sampler(small)(small[1], asked, seed=0, temperature=1.0, stop=STOP))
    assert all(s.probs.shape == (len(s.tail), 0) and (s.tail == 1).all() for s in bare)


def test_a_cache_of_bytes_says_nearly_the_same(small):
    """Distributions of the same tokens, against those of float32: the KL that the README gives."""
    asked = requests(12, seed=4)
    bytes_, floats = (
        sampler(small, keep=64, int8=int8)(small[1], asked, seed=0, temperature=1.0, stop=()) for int8 in (True, False)
    )
    divergence = []
    for a, b in zip(bytes_, floats, strict=True):
        alike = int(np.argmin(np.r_[a.tokens == b.tokens, False]))  # after the first other token they go apart
        p, q = (np.take_along_axis(s.probs, s.ids.argsort(axis=1), axis=1)[: alike + 1] for s in (b, a))
        divergence += np.sum(p * (np.log(p) - np.log(q)), axis=1).tolist()
    assert 0 < np.mean(divergence) < 2e-4 and len(divergence) > 100


def test_weights_are_cast_once_for_a_call(small):
    asked = requests(4)
    rough = sampler(small, dtype="bfloat16")(small[1], asked, seed=0, temperature=0.0, stop=STOP)
    fine = sampler(small)(small[1], asked, seed=0, temperature=0.0, stop=STOP)
    off = [np.abs(a.probs[0] - b.probs[0]).max() for a, b in zip(rough, fine, strict=True)]
    assert 1e-5 < max(off) < 0.05


def test_slots_over_a_mesh_say_the_same(small):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = jax.device_put(small[1], state_sharding(mesh, small[1]))
    asked = requests(20)
    alone = sampler(small, slots=8)(small[1], asked, seed=3, temperature=1.0, stop=STOP)
    spread = sampler(small, slots=8, rows=slots_sharding(mesh))(params, asked, seed=3, temperature=1.0, stop=STOP)
    assert said(alone) == said(spread)
    for a, b in zip(alone, spread, strict=True):
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


def test_a_step_on_a_mesh_sends_no_cache_and_no_weights(small):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    params = jax.device_put(small[1], state_sharding(mesh, small[1]))
    make = sampler(small, slots=8, rows=slots_sharding(mesh))
    sent = collectives(make.lowered(params, 16)[0].compile().as_text(), mesh)
    in_steps = [c for c in sent if "while/body" in c.name]
    assert len(in_steps) > 5
    assert max(c.bytes for c in in_steps) <= 2 * 64 * 8  # logits of a part's two slots, and what top-k makes of them
    assert all(c.bytes <= 256 for c in in_steps if set(c.axes) & {"data", "fsdp"})


def test_progress_counts_every_request_once(small):
    told = []
    sampler(small)(small[1], requests(10), seed=0, temperature=1.0, stop=STOP, advance=told.append)
    assert sum(told) == 10


def test_its_pace_is_timed_with_the_program_that_samples(small):
    make = sampler(small, new_tokens=20)
    (asked,) = requests(1, longest=10)
    pace = make.pace(small[1], asked.prompt, STOP)
    assert pace.compiling > 0 and pace.token > 0 and pace.step > 0 and make.meter.steps == 0
    before = slots.dispatch.jitted(make)._cache_size()
    make(small[1], [asked], seed=0, temperature=1.0, stop=STOP)
    assert slots.dispatch.jitted(make)._cache_size() == before


@pytest.mark.parametrize(
    ("axes", "guided"), [({}, False), ({"fsdp": 8}, False), ({"data": 8}, True), ({"data": 4, "tensor": 2}, False)]
)
def test_a_step_is_compiled_once_however_many_queues_are_read_over_a_mesh(axes, guided):
    sizes = {"vocab_size": 300, "width": 16, "layers": 1, "heads": 4, "kv_heads": 2, "mlp_width": 32}
    graphdef, params = decoder.create(DecoderConfig(**sizes, max_length=40), 0)
    mesh = make_mesh(MeshConfig(**axes), jax.devices()[: math.prod(axes.values())])
    make = sampler((graphdef, params), slots=8, new_tokens=4, rows=slots_sharding(mesh) if axes else None)
    params = jax.device_put(params, state_sharding(mesh, params))
    digits = Pieces([b"", *(bytes([i]) for i in range(256))], [0], 0).spelled()
    grammar = Grammar.of_json({"type": "integer"}, digits) if guided else None
    before = slots.dispatch.jitted(make)._cache_size()
    asked = [replace(request, grammar=grammar) for request in requests(20)]
    make(params, asked, seed=0, temperature=1.0, stop=(0,))
    assert slots.dispatch.jitted(make)._cache_size() == before + 1


def test_the_sampler_compiles_once_a_bucket(small):
    make = sampler(small, new_tokens=3)
    make(small[1], requests(2, longest=10), seed=0, temperature=1.0, stop=STOP)
    programs = [program.jitted(make) for program in (slots.dispatch, slots.prefill)]
    before = [program._cache_size() for program in programs]
    make(small[1], requests(3, seed=1, longest=16), seed=1, temperature=0.3, stop=(2,))
    assert [program._cache_size() for program in programs] == before
    assert jax.device_count() == 8

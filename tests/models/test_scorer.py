"""Questions of contexts, against the full forward pass; and over a mesh."""

import jax
import numpy as np
import pytest
from support import awaken, full_probs, requests

from ratchet.launch.preflight.collectives import collectives
from ratchet.models import decoder, inference, readings, scorer
from ratchet.models.decoder import Decoder, DecoderConfig
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding


@pytest.fixture(scope="module")
def asked():
    contexts = [(), *(r.prompt for r in requests(3, seed=2, longest=30))]
    asked = [(contexts[i % 4], r.prompt) for i, r in enumerate(requests(11, seed=3))]
    return [*asked, asked[0]]


def test_it_gives_the_probabilities_of_the_full_forward(small, asked):
    found = Scorer(small[0], questions=8, bucket=16)(small[1], asked, (5, 9))
    expected = np.stack([full_probs(*small, (*c, *q))[-1][[5, 9]] for c, q in asked])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert Scorer(small[0], questions=4)(small[1], [], (5, 9)).shape == (0, 2)


def test_it_tells_after_each_batch_which_share_is_answered(small, asked):
    told = []
    Scorer(small[0], questions=8, bucket=16)(small[1], asked, (5, 9), told.append)
    assert told == [8 / 11, 1.0]


def in_a_loop_or_not(monkeypatch, run):
    """What `run(graphdef, params, bucket)` gives for a deep model whose layers are looped over, and where they are not;
    and of each the readings: (whether there was a loop, tokens)."""
    sizes = {"vocab_size": 64, "width": 16, "layers": 9, "heads": 2, "kv_heads": 1, "mlp_width": 32}
    graphdef, params = decoder.create(DecoderConfig(**sizes, max_length=96), 0)
    params, loops, extend = awaken(params), [], Decoder.extend
    def noted(self, layers, tokens_BT, *given):
        loops.append((layers is None, tokens_BT.shape[1]))
        return extend(self, layers, tokens_BT, *given)

    def followed(model, layers, given, kernel):
        loops.extend((layers is None, reading.tokens_BT.shape[1]) for reading in given)
        return readings.follow(model, layers, given, kernel)

    monkeypatch.setattr(Decoder, "extend", noted)
    monkeypatch.setattr(scorer, "follow", followed)
    looped, until = run(graphdef, params, 32), len(loops)
    monkeypatch.setattr(inference, "SHALLOW", 9)
    return looped, run(graphdef, params, 16), loops[:until], loops[until:]


def test_a_deep_model_is_read_in_a_loop_over_its_layers(asked, monkeypatch):
    run = lambda graphdef, params, bucket: Scorer(graphdef, questions=8, bucket=bucket)(params, asked[:4], (5, 9))
    looped, each, first, then = in_a_loop_or_not(monkeypatch, run)
    assert {loop for loop, _ in first} == {True} and {loop for loop, _ in then} == {False}
    np.testing.assert_allclose(each, looped, atol=1e-6)


@pytest.mark.long
def test_a_deep_models_contexts_are_read_in_few_widths(monkeypatch):
    def run(graphdef, params, _):
        plan = Scorer(graphdef, questions=2, bucket=8)
        return np.stack([plan(params, [((3,) * n, (4, 5))], (5, 9)) for n in range(1, 80, 13)])

    deep, shallow, first, then = in_a_loop_or_not(monkeypatch, run)
    few, many = ({length for _, length in read} for read in (first, then))
    assert few == {8, 64, 128} and many == {8, 16, 32, 40, 56, 72, 80}
    np.testing.assert_allclose(deep, shallow, atol=1e-6)


@pytest.mark.parametrize("int8", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_deep_models_prompts_are_read_in_a_loop_and_its_steps_are_not(monkeypatch, int8):
    def run(graphdef, params, bucket):
        make = Sampler(graphdef, slots=4, new_tokens=6, keep=4, bucket=bucket, int8=int8)
        return make(params, requests(6, longest=30), seed=1, temperature=1.0, stop=(1,))

    looped, each, first, then = in_a_loop_or_not(monkeypatch, run)
    assert {(loop, length > 1) for loop, length in first} == {(True, True), (False, False)}
    assert {loop for loop, _ in then} == {False}
    for a, b in zip(looped, each, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-5)


def test_weights_are_cast(small, asked):
    rough, fine = (Scorer(small[0], questions=8, dtype=d)(small[1], asked, (5, 9)) for d in ("bfloat16", "float32"))
    assert 1e-6 < np.abs(rough - fine).max() < 0.02


@pytest.fixture
def spread(small, request, monkeypatch):
    """A scorer over a mesh, which has each layer on its own or, by `LOOPS`, their stacks."""
    mesh, loops = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), getattr(request, "param", False)
    params = jax.device_put(small[1], state_sharding(mesh, small[1]))
    monkeypatch.setattr(inference, "SHALLOW", 0 if loops else 8)
    scorer = Scorer(small[0], questions=8, bucket=24 if loops else 16, rows=slots_sharding(mesh))
    assert bool(scorer.weights(params).layers) != loops
    return scorer, params, mesh


LOOPS = pytest.mark.parametrize("spread", [False, True], indirect=True)


@LOOPS
def test_over_a_mesh_it_says_the_same(small, spread, asked):
    scorer, params, _ = spread
    alone = Scorer(small[0], questions=8, bucket=16)(small[1], asked, (5, 9))
    np.testing.assert_allclose(scorer(params, asked, (5, 9)), alone, atol=1e-6)
    few = asked[:3]  # fewer than there are parts
    np.testing.assert_allclose(scorer(params, few, (5, 9)), alone[:3], atol=1e-6)


@LOOPS
def test_parts_of_a_mesh_exchange_nothing_but_answers(spread):
    scorer, params, mesh = spread
    lowered, given = scorer.lowered(params, contexts=1, width=16, length=16)
    sent = collectives(lowered.compile().as_text(), mesh)
    assert sent, "layers are split over tensor"
    assert sum(c.bytes for c in sent if set(c.axes) & {"data", "fsdp"}) <= 8 * 2 * 4
    weights = given[0].weights
    read = jax.tree_util.tree_leaves_with_path(weights.layers or weights.params["layers"])
    laid = [(jax.tree_util.keystr(path), str(x.sharding.spec)) for path, x in read]
    assert not any(axis in spec for _, spec in laid for axis in ("data", "fsdp"))
    assert all("tensor" in spec for name, spec in laid if "query" in name)


def test_a_scorer_reads_a_samplers_weights_and_not_the_other_way_round(small, asked, monkeypatch):
    monkeypatch.setattr(inference, "SHALLOW", 0)
    scorer, sampler = Scorer(small[0], questions=8, bucket=40), Sampler(small[0], slots=2, new_tokens=2, keep=1)
    shared = sampler.weights(small[1])
    np.testing.assert_array_equal(scorer(shared, asked, (5, 9)), scorer(small[1], asked, (5, 9)))
    with pytest.raises(AssertionError, match="weights in stacks, which a scorer alone reads"):
        sampler.weights(scorer.weights(small[1]))


def test_given_tokens_have_the_distributions_of_the_full_forward(small):
    told = [(r.prompt, s.prompt) for r, s in zip(requests(9, seed=4), requests(9, seed=5), strict=True)]
    told += [(told[0][0], told[1][1]), told[0]]
    for (context, tokens), found in zip(
        told, Scorer(small[0], questions=4, bucket=16).distributions(small[1], told, 6), strict=True
    ):
        probs = full_probs(*small, (*context, *tokens))[len(context) - 1 : -1]
        assert found.ids.shape == (len(tokens), 6)
        np.testing.assert_allclose(found.probs, np.take_along_axis(probs, found.ids, axis=1), atol=1e-5)
        np.testing.assert_allclose(found.probs.sum(-1) + found.tail, 1.0, atol=1e-5)
        assert all(token in ids for token, ids in zip(tokens, found.ids, strict=True))
        np.testing.assert_allclose(found.probs[:, 0], probs.max(-1), atol=1e-5)
    assert Scorer(small[0], questions=4).distributions(small[1], [], 6) == []


def test_given_tokens_are_as_likely_as_by_the_full_forward(small, spread):
    told = [(r.prompt, s.prompt) for r, s in zip(requests(9, seed=7), requests(9, seed=8), strict=True)]
    told += [(told[0][0], told[1][1]), (told[0][0], told[2][1]), told[0]]
    scorer, params, _ = spread
    alone = Scorer(small[0], questions=4, bucket=16).log_likelihoods(small[1], told)
    over_a_mesh = scorer.log_likelihoods(params, told)
    for (context, tokens), found, meshed in zip(told, alone, over_a_mesh, strict=True):
        rows = full_probs(*small, (*context, *tokens))[len(context) - 1 : -1]
        expected = np.log(rows[np.arange(len(tokens)), list(tokens)])
        assert found.shape == (len(tokens),)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(meshed, expected, atol=1e-4)
    assert Scorer(small[0], questions=4).log_likelihoods(small[1], []) == []


def test_ids_that_no_token_has_take_no_probability(small):
    unused, told = (7, 60, 61), [((5, 9), (11, 12)), ((5, 9), (13,))]
    scorer = Scorer(small[0], questions=4, bucket=16, unused=unused)
    probs = full_probs(*small, (5, 9, 11, 12))
    probs[:, unused] = 0
    probs /= probs.sum(-1, keepdims=True)
    found = scorer(small[1], [((5, 9), (11, 12))], (5, 7))
    np.testing.assert_allclose(found[0], probs[-1][[5, 7]], atol=1e-5)
    given = scorer.distributions(small[1], told, 4)[0]
    np.testing.assert_allclose(given.probs, np.take_along_axis(probs[1:-1], given.ids, axis=1), atol=1e-5)
    np.testing.assert_allclose(given.tail, 1 - given.probs.sum(-1), atol=1e-5)


def test_what_was_sampled_has_the_distributions_that_were_captured(small, spread):
    asked = requests(10, seed=6)
    made = Sampler(small[0], slots=4, new_tokens=12, keep=6)(small[1], asked, seed=0, temperature=1.0, stop=(1,))
    told = [
        (r.prompt, (*s.tokens.tolist(), *([s.stop] if s.finished else []))) for r, s in zip(asked, made, strict=True)
    ]
    scorer, params, _ = spread
    for s, found in zip(made, scorer.distributions(params, told, 6), strict=True):
        np.testing.assert_array_equal(found.ids, s.ids)
        np.testing.assert_allclose(found.probs, s.probs, atol=1e-5)
        np.testing.assert_allclose(found.tail, s.tail, atol=1e-5)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.train.codec import pack_targets, unpack_targets
from ratchet.train.files import RecordError

VOCAB = 152_000


def softmax_like(count, kept, top_p=1.0, vocab=VOCAB, seed=0):
    """The `kept` likeliest of a softmax over a Zipf-like vocabulary, each token with its own sharpness."""
    rng = np.random.default_rng(seed)
    sharpness = rng.uniform(0.8, 3.0, (count, 1))
    logits = -sharpness * np.log(np.arange(1, 2000)) + rng.normal(0, 0.5, (count, 1999))
    probs = np.exp(logits - logits.max(1, keepdims=True))
    probs = -np.sort(-probs / probs.sum(1, keepdims=True), 1)[:, :kept]
    before = probs.cumsum(1) - probs
    probs = np.where(before < top_p, probs, 0)
    ids = np.stack([rng.choice(vocab, kept, replace=False) for _ in range(count)])
    return np.where(probs > 0, ids, 0).astype(np.int32), probs.astype(np.float32)


def quantisation_kl(probs, got_probs, got_tail):
    """KL(given ‖ unpacked) of each token in nats, the tail as one bucket; padding last, as `softmax_like` has it."""
    given = np.column_stack([probs, np.maximum(1 - probs.sum(1, dtype=np.float64), 0)]).astype(np.float64)
    got = np.column_stack([np.pad(got_probs, ((0, 0), (0, probs.shape[1] - got_probs.shape[1]))), got_tail])
    safe = given > 1e-6
    return (given * np.log(np.where(safe, given, 1) / np.where(safe, got, 1))).sum(1)


def test_every_slot_used():
    ids, probs = softmax_like(1000, 16)
    blob = pack_targets(ids, probs, VOCAB)
    got_ids, got_probs, got_tail = unpack_targets(blob, VOCAB)
    np.testing.assert_array_equal(got_ids, ids)
    assert len(blob) / 1000 <= 71
    assert -1e-7 < quantisation_kl(probs, got_probs, got_tail).mean() <= 1e-6


def test_adaptive_k_meets_the_budget_in_float16():
    ids, probs = softmax_like(1000, 16, top_p=0.9)
    blob = pack_targets(ids, probs, VOCAB)
    got_ids, got_probs, got_tail = unpack_targets(blob, VOCAB)
    assert len(blob) / 1000 <= 56
    np.testing.assert_array_equal(got_ids, ids)
    assert quantisation_kl(probs, got_probs, got_tail).max() <= 1e-4


def test_one_hot_costs_its_id_alone_and_is_exact():
    ids = np.arange(1000)[:, None] * 150
    blob = pack_targets(ids, np.ones((1000, 1)), VOCAB)
    assert len(blob) == 16 + 1000 * 18 // 8
    got_ids, got_probs, got_tail = unpack_targets(blob, VOCAB)
    np.testing.assert_array_equal(got_ids, ids)
    assert (got_probs == 1).all() and (got_tail == 0).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_packing_round_trips(data):
    vocab = data.draw(st.integers(1, 300))
    kept = data.draw(st.integers(0, min(vocab, 20)))
    count = data.draw(st.integers(0, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = np.array([rng.permutation(vocab)[:kept] for _ in range(count)], np.int32).reshape(count, kept)
    masses = rng.dirichlet(np.full(kept + 1, data.draw(st.sampled_from([0.05, 1.0, 20.0]))), count)
    if kept and data.draw(st.booleans()):  # no tail
        masses[:, 0] += masses[:, -1]
    probs = masses[:, :-1] * (rng.random((count, kept)) < data.draw(st.sampled_from([0.5, 1.0])))
    probs = probs.astype(np.float32)
    got_ids, got_probs, got_tail = unpack_targets(pack_targets(ids, probs, vocab), vocab)
    assert (got_ids.dtype, got_probs.dtype, got_tail.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_allclose(got_probs.sum(1) + got_tail, 1, atol=1e-6)
    for row in range(count):
        kept_slots, got_slots = probs[row] > 0, got_probs[row] > 0
        np.testing.assert_array_equal(got_ids[row][got_slots], ids[row][kept_slots])
        # Log-probabilities are cut off at -80 nats, and a step of float16 there is 0.06.
        np.testing.assert_allclose(got_probs[row][got_slots], probs[row][kept_slots], rtol=0.08, atol=1e-34)
        tail = 1 - probs[row].sum(dtype=np.float64)
        np.testing.assert_allclose(got_tail[row], tail, rtol=0.08, atol=2e-6)


def test_bad_targets_are_named():
    ids, probs = softmax_like(3, 4, vocab=100)
    blob = pack_targets(ids, probs, 100)
    for call, what in [
        (lambda: pack_targets(ids + 100, probs, 100), "outside the vocabulary"),
        (lambda: pack_targets(ids, probs * 2, 100), "sum to more than 1"),
        (lambda: pack_targets(ids, probs * np.nan, 100), "NaN"),
        (lambda: unpack_targets(blob, 101), "vocabulary 100"),
        (lambda: unpack_targets(b"\x09" + blob[1:], 100), "schema 9"),
        (lambda: unpack_targets(blob[:1] + b"\x08" + blob[2:], 100), "8 bits"),
        (lambda: unpack_targets(blob[:-1], 100), "cut short"),
        (lambda: unpack_targets(b"", 100), "cut short"),
    ]:
        with pytest.raises(RecordError, match=what):
            call()

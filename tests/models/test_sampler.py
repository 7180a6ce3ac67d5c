import jax
import numpy as np
import pytest
from support import full_logits, full_probs

from models.sampler import Request, Sampler, Scorer, capture

STOP = (1,)


def sampler(small, **sizes):
    return Sampler(small[0], **{"slots": 4, "new_tokens": 12, "keep": 6, "bucket": 16} | sizes)


def requests(count, seed=0, shortest=1, longest=16):
    rng = np.random.default_rng(seed)
    return [
        Request(int(rng.integers(2**40)), tuple(rng.integers(2, 64, rng.integers(shortest, longest + 1)).tolist()))
        for _ in range(count)
    ]


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
        np.testing.assert_array_equal(a.probs, b.probs)


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


def test_capture_keeps_the_most_likely_ids_and_the_emitted_one():
    probs = np.array([[0.4, 0.3, 0.2, 0.07, 0.03]], np.float32)
    ids, kept, tail = capture(probs, np.array([4]), 3)
    assert ids.tolist() == [[0, 1, 4]]
    np.testing.assert_allclose(kept, [[0.4, 0.3, 0.03]])
    np.testing.assert_allclose(tail, [0.27], atol=1e-6)
    assert capture(probs, np.array([1]), 3)[0].tolist() == [[0, 1, 2]]


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


def test_progress_counts_every_request_once(small):
    told = []
    sampler(small)(small[1], requests(10), seed=0, temperature=1.0, stop=STOP, advance=told.append)
    assert sum(told) == 10


def test_scorer_gives_the_probabilities_of_the_full_forward(small):
    asked = [r.prompt for r in requests(7, seed=2, longest=30)]
    asked.append(asked[0])
    found = Scorer(small[0], rows=4, bucket=16)(small[1], asked, (5, 9))
    expected = np.stack([full_probs(*small, p)[-1][[5, 9]] for p in asked])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert Scorer(small[0], rows=4)(small[1], [], (5, 9)).shape == (0, 2)


def test_the_sampler_compiles_once_a_bucket(small):
    from models import sampler as module

    make = sampler(small, new_tokens=3)
    make(small[1], requests(2, longest=10), seed=0, temperature=1.0, stop=STOP)
    before = module._sample._cache_size()
    make(small[1], requests(3, seed=1, longest=16), seed=1, temperature=0.3, stop=(2,))
    assert module._sample._cache_size() == before
    assert jax.device_count() == 8

"""Requests that join a round say what a sampler would have them say."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from support import awaken, requests

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.draw import Warp
from ratchet.models.grammar import Grammar
from ratchet.models.rounds import Asked, Round
from ratchet.models.sampler import Request, Sampler
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding

STOP = (1,)


def made(small, slots=2):
    """A sampler, which says how many slots a round has and what is kept, and the weights as it reads them."""
    sampler = Sampler(small[0], slots=slots, new_tokens=64, keep=4)
    return sampler, sampler.weights(small[1])


def heard(parts):
    """By request, the tokens and captured probabilities of all its parts."""
    tokens = np.concatenate([part.tokens for part in parts])
    return tokens.tolist(), np.concatenate([part.captured.probs for part in parts])


def all_said(round_, waiting):
    """What each of `waiting` says, in order, when each joins as soon as a slot is free."""
    waiting, seated, parts = list(enumerate(waiting)), {}, {}
    while waiting or seated:
        while waiting and round_.free:
            place, asked = waiting.pop(0)
            seated[round_.join(asked)] = place
        for number, part in round_.step().items():
            parts.setdefault(seated[number], []).append(part)
            if part.ended:
                del seated[number]
    return [heard(parts[place]) for place in sorted(parts)]


@pytest.mark.long
def test_each_says_what_it_would_say_alone_by_its_own_seed_warp_and_length(small):
    sampler, weights = made(small)
    warps = (Warp(), Warp(0.0), Warp(0.7, top_k=5), Warp(1.3, top_p=0.8), Warp(1.0, min_p=0.1), Warp(0.5))
    asked = [Asked(r, 7 + n, 3 + 4 * n, warp) for n, (r, warp) in enumerate(zip(requests(6), warps, strict=True))]
    for a, (tokens, probs) in zip(asked, all_said(Round(sampler, weights, STOP, asked), asked), strict=True):
        alone = sampler(small[1], [a.request], seed=a.seed, stop=STOP, **a.warp._asdict())[0]
        want = [*alone.tokens.tolist(), *([alone.stop] if alone.finished else [])][: a.longest]
        assert tokens == want
        np.testing.assert_allclose(probs, alone.probs[: len(want)], atol=1e-5)


def test_a_request_that_was_given_up_frees_its_slot_and_is_not_heard_of_again(small):
    sampler, weights = made(small)
    first, second, third = [Asked(r, 0, 60) for r in requests(3, seed=4)]
    alone = all_said(Round(sampler, weights, (), [third]), [third])[0][0]
    round_ = Round(sampler, weights, (), [first, second, third])
    numbers = [round_.join(first), round_.join(second)]
    assert not round_.free and set(round_.step()) == set(numbers)
    round_.leave(numbers[0])
    assert set(round_.step()) == {numbers[1]} and round_.free == 1
    number, tokens = round_.join(third), []
    while True:
        part = round_.step()[number]
        tokens += part.tokens.tolist()
        if part.ended:
            break
    assert tokens == alone and len(tokens) == 60


def test_one_that_leaves_before_it_was_read_takes_no_slot(small):
    sampler, weights = made(small)
    first, second = [Asked(r, 0, 4) for r in requests(2)]
    round_ = Round(sampler, weights, (), [first])
    gone, stays = round_.join(first), round_.join(second)
    round_.leave(gone)
    assert set(round_.step()) == {stays}


def test_a_number_that_was_given_up_as_it_ended_is_anothers_from_then_on(small):
    """A request that is queued when it is given up takes a slot and ends within one dispatch."""
    sampler, weights = made(small)
    brief, later = Asked(requests(2, seed=4)[0], 0, 2), Asked(requests(2, seed=5)[1], 3, 5)
    round_ = Round(sampler, weights, (), [brief, later])
    number = round_.join(brief)
    round_._read()  # now it is queued
    round_.leave(number)
    assert round_.step() == {}
    again = round_.join(later)
    part = round_.step()[again]
    assert part.ended and len(part.tokens) == 5


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_each_goes_to_the_part_with_most_free_slots(small, parts):
    mesh = make_mesh(MeshConfig(data=parts), jax.devices()[:parts])
    sampler = replace(made(small)[0], slots=8, rows=slots_sharding(mesh))
    weights = sampler.weights(jax.device_put(small[1], jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())))
    round_ = Round(sampler, weights, (), [Asked(r, 0, 60) for r in requests(1)])
    each = 8 // parts
    round_._index_B = np.array([7, *[-1] * (each - 1), *[-1] * (8 - each)])
    places_MQ = round_._places(range(6)).reshape(parts, each)
    assert sorted(places_MQ[places_MQ >= 0]) == [*range(6)]
    taken = np.sum(places_MQ >= 0, axis=1) + (np.arange(parts) == 0)
    assert max(taken) - min(taken) <= 1 and sum(taken) == 7
    assert all((row[: np.sum(row >= 0)] >= 0).all() for row in places_MQ)


def test_what_is_longer_does_not_fit_a_round_of_shorter_ones(small):
    round_ = Round(*made(small), STOP, [Asked(Request(0, (2, 3)), 0, 8)])
    assert round_.fits(Asked(Request(1, (5,) * 64), 0, 64))
    assert not round_.fits(Asked(Request(1, (5,) * 65), 0, 8)) and not round_.fits(Asked(Request(1, (5,)), 0, 65))


def test_those_with_a_grammar_are_among_themselves_and_keep_to_it(tokenizer):
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64)
    graphdef, params = decoder.create(config, 0)
    sampler = Sampler(graphdef, slots=2, new_tokens=64, keep=4)
    grammar = Grammar.of_json({"enum": ["hums", "drips"]}, tokenizer.spelled())
    asked = [Asked(Request(n, (5, 6, n), grammar), n, 30) for n in range(5)]
    free = Asked(Request(9, (5,)), 0, 30)
    weights, ends = sampler.weights(awaken(params)), (tokenizer.end,)
    assert not Round(sampler, weights, ends, asked).fits(free)
    assert not Round(sampler, weights, ends, [free]).fits(asked[0])
    said = [tokenizer.decode(tokens).strip() for tokens, _ in all_said(Round(sampler, weights, ends, asked), asked)]
    assert len(said) == 5 and set(said) <= {'"hums"', '"drips"'}

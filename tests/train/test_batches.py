import gc
import weakref
from collections import Counter

import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import random_examples

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.inference import round_up
from ratchet.train.batches import SEGMENTS, Batches, _few
from ratchet.train.trainer import EngineConfig, make_step


def batches(pools=((12, 3), (7, 2)), *, seed=0, steps=6, columns=40, keep=1, **more):
    made = [(random_examples(size, seed=n, keep=keep), count) for n, (size, count) in enumerate(pools)]
    return Batches(made, seed=seed, steps=steps, columns=columns, **more)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_a_step_is_a_pure_function_of_seed_and_step():
    first, again, other = batches(), batches(), batches(seed=1)
    for step in (4, 0, 4, 5):
        assert_equal(first[step], again[step])
    assert first.picks(0) != other.picks(0)
    for step, batch in enumerate(first.iterate(2), start=2):
        assert_equal(batch, again[step])
    assert step == 5


def test_every_example_comes_once_an_epoch():
    source = batches(pools=((12, 3), (6, 2)), steps=12)
    drawn = [pick for step in range(12) for pick in source.picks(step)]
    assert Counter(p for p in drawn if p[0] == 0) == {(0, i): 3 for i in range(12)}
    first, second = ([i for pool, i in drawn if pool == 0][k : k + 12] for k in (0, 12))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@given(
    seed=st.integers(0, 10**6),
    sizes=st.lists(st.tuples(st.integers(1, 15), st.integers(1, 6)), min_size=1, max_size=3),
    columns=st.integers(20, 60),
    multiple=st.sampled_from([1, 4, 8]),
    keep=st.sampled_from([1, 3]),
)
def test_rows_hold_whole_examples_and_every_target_is_the_next_token(seed, sizes, columns, multiple, keep):
    source = batches(tuple(sizes), seed=seed, steps=3, columns=columns, row_multiple=multiple, keep=keep)
    assert source.segments == max(source[step]["segments"].max() for step in range(3))
    for step in range(3):
        batch = source[step]
        assert batch["tokens"].shape == (source.rows, columns) and source.rows % multiple == 0
        assert (batch["predict"] < columns).all()
        chosen = [source.pools[pool][0][i] for pool, i in source.picks(step)]
        assert batch["weights"].sum() == sum(len(e.ids) for e in chosen)
        assert (batch["segments"] > 0).sum() == sum(len(e.tokens) for e in chosen)
        found = []
        for row in range(source.rows):
            for segment in range(1, batch["segments"][row].max() + 1):
                at = np.flatnonzero(batch["segments"][row] == segment)
                np.testing.assert_array_equal(at, np.arange(at[0], at[-1] + 1))
                np.testing.assert_array_equal(batch["positions"][row, at], np.arange(len(at)))
                found.append(tuple(batch["tokens"][row, at].tolist()))
        assert sorted(found) == sorted(tuple(e.tokens.tolist()) for e in chosen)
        rows, slots = np.nonzero(batch["weights"])
        at = batch["predict"][rows, slots]
        np.testing.assert_array_equal(batch["ids"][rows, slots, 0], batch["tokens"][rows, at + 1])
        np.testing.assert_array_equal(batch["segments"][rows, at], batch["segments"][rows, at + 1])
        mass = batch["probs"][rows, slots].sum(-1) + batch["tail"][rows, slots]
        np.testing.assert_allclose(mass, 1.0, atol=1e-6)


@given(rows=st.sets(st.integers(0, 7), min_size=1), seed=st.integers(0, 100))
def test_the_rows_of_one_process_are_those_of_the_whole_batch(rows, seed):
    source, rows = batches(((30, 12),), seed=seed, steps=2, columns=20, row_multiple=8, keep=2), np.array(sorted(rows))
    assert_equal(source.part(1, rows), {name: array[rows] for name, array in source[1].items()})


def test_a_source_that_nobody_holds_is_let_go():
    source = batches()
    known = weakref.ref(source)
    del source
    gc.collect()
    assert known() is None


def test_a_little_pool_does_not_put_out_the_orders_of_a_large_one(monkeypatch):
    ordered, order = [], Batches._order
    monkeypatch.setattr(Batches, "_order", lambda self, *of: ordered.append(of) or order(self, *of))
    batches(((100, 4), (1, 16)), steps=6)
    assert [of for of in ordered if of[0] == 0] == [(0, 0)]


def test_shapes_never_change_over_a_run():
    source = batches(steps=9)
    shapes = [{name: array.shape for name, array in source[step].items()} for step in range(9)]
    assert all(shape == shapes[0] for shape in shapes)


def test_rows_of_few_shapes_are_a_sixteenth_more_at_most():
    assert [_few(rows) for rows in (1, 15, 16, 47, 48, 111, 112)] == [1, 1, 2, 2, 4, 4, 8]
    assert all(round_up(rows, _few(rows)) <= 1.0625 * rows for rows in range(1, 5000))


def test_an_empty_pool_and_one_without_a_share_are_left_out():
    examples = random_examples(3)
    source = Batches([(examples, 2), ([], 5), (examples, 0)], seed=0, steps=1, columns=40)
    assert len(source.pools) == 1


def test_bad_training_sets_are_one_clear_line():
    with pytest.raises(ValueError, match="it is empty; look at the funnel"):
        Batches([([], 4)], seed=0, steps=1, columns=40)
    with pytest.raises(ValueError, match="rows hold 5; raise --train.columns"):
        batches(columns=5)


def test_where_shapes_are_few_rows_of_several_segments_have_room_for_as_many():
    """Another generation's fullest row, of seven instead of eight, would otherwise compile anew on GPUs."""
    some = random_examples(400)
    of = lambda examples, columns, few: Batches(
        [(examples, len(examples))], seed=0, steps=1, columns=columns, row_multiple=1, few=few
    ).segments
    assert 1 < of(some, 40, False) < SEGMENTS == of(some, 40, True)
    alone = [e for e in some if len(e.tokens) > 10]
    assert of(alone, 20, False) == of(alone, 20, True) == 1, "rows of one example stay such"


def test_a_step_is_another_program_for_more_segments_on_gpus_alone(monkeypatch):
    graphdef, params = decoder.create(DecoderConfig(vocab_size=64, width=8, layers=1, heads=2, mlp_width=8), 0)
    tx = optax.with_extra_args_support(optax.sgd(0.1))
    made = lambda segments: make_step(graphdef, tx, EngineConfig(), params, segments).__wrapped__
    assert made(5) is made(9) is made(0)
    monkeypatch.setattr("ratchet.train.trainer.platform", lambda device: "gpu")
    assert made(5) is made(7) is not made(9)

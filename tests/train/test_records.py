import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.train.records import (
    Example,
    RecordError,
    features,
    pack_targets,
    read_examples,
    read_unit,
    unpack_targets,
    write_dataset,
    write_examples,
    write_unit,
)

VOCAB = 152_000
HEADER = {"vocab_size": VOCAB, "tokenizer": "abc", "temperature": 1.0}


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


def example(seed=0, time=12, kept=4, **lineage):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, time)
    weights = (np.arange(time) >= time // 2) * np.float32(0.75)
    ids, probs = softmax_like(int((weights > 0).sum()), kept, seed=seed)
    return Example.create(
        tokens, weights, ids, probs, 1 - probs.sum(1), origin="simulate", lineage={"transcript": f"t{seed}", **lineage}
    )


@pytest.mark.parametrize(("precision", "size", "kl"), [("float16", 71, 1e-6), ("uint9", 56, 1e-4), ("uint8", 54, 4e-4)])
def test_every_slot_used(precision, size, kl):
    ids, probs = softmax_like(1000, 16)
    blob = pack_targets(ids, probs, VOCAB, precision=precision)
    got_ids, got_probs, got_tail = unpack_targets(blob, VOCAB)
    np.testing.assert_array_equal(got_ids, ids)
    assert len(blob) / 1000 <= size
    assert -1e-7 < quantisation_kl(probs, got_probs, got_tail).mean() <= kl


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
    precision = data.draw(st.sampled_from(["float16", "uint9", "uint8"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = np.array([rng.permutation(vocab)[:kept] for _ in range(count)], np.int32).reshape(count, kept)
    masses = rng.dirichlet(np.full(kept + 1, data.draw(st.sampled_from([0.05, 1.0, 20.0]))), count)
    if kept and data.draw(st.booleans()):  # no tail
        masses[:, 0] += masses[:, -1]
    probs = masses[:, :-1] * (rng.random((count, kept)) < data.draw(st.sampled_from([0.5, 1.0])))
    probs = probs.astype(np.float32)
    got_ids, got_probs, got_tail = unpack_targets(pack_targets(ids, probs, vocab, precision=precision), vocab)
    assert (got_ids.dtype, got_probs.dtype, got_tail.dtype) == (np.int32, np.float32, np.float32)
    np.testing.assert_allclose(got_probs.sum(1) + got_tail, 1, atol=1e-6)
    step = {"float16": 0.04, "uint9": 0.04, "uint8": 0.07}[precision]
    for row in range(count):
        kept_slots, got_slots = probs[row] > 0, got_probs[row] > 0
        np.testing.assert_array_equal(got_ids[row][got_slots], ids[row][kept_slots])
        floor = 1e-34 if precision == "float16" else 2e-7  # where log-probabilities are cut off
        np.testing.assert_allclose(got_probs[row][got_slots], probs[row][kept_slots], rtol=2 * step, atol=floor)
        tail = 1 - probs[row].sum(dtype=np.float64)
        np.testing.assert_allclose(got_tail[row], tail, rtol=2 * step, atol=2e-6)


def test_bad_targets_are_named():
    ids, probs = softmax_like(3, 4, vocab=100)
    blob = pack_targets(ids, probs, 100)
    for call, what in [
        (lambda: pack_targets(ids + 100, probs, 100), "outside the vocabulary"),
        (lambda: pack_targets(ids, probs * 2, 100), "sum to more than 1"),
        (lambda: pack_targets(ids, probs * np.nan, 100), "NaN"),
        (lambda: unpack_targets(blob, 101), "vocabulary 100"),
        (lambda: unpack_targets(b"\x09" + blob[1:], 100), "schema 9"),
        (lambda: unpack_targets(blob[:-1], 100), "cut short"),
        (lambda: unpack_targets(b"", 100), "cut short"),
    ]:
        with pytest.raises(RecordError, match=what):
            call()


def test_id_binds_content():
    one = example()
    assert one.id == example().id and len(one.id) == 16
    tokens = one.tokens.copy()
    tokens[3] += 1
    rest = one.ids, one.probs, one.tail
    others = [
        Example.create(tokens, one.weights, *rest, origin="simulate", lineage=one.lineage),
        Example.create(one.tokens, one.weights, *rest, origin="student", lineage=one.lineage),
        Example.create(one.tokens, one.weights, *rest, origin="simulate", lineage={"transcript": "other"}),
        Example.create(one.tokens, np.roll(one.weights, -1), *rest, origin="simulate", lineage=one.lineage),
    ]
    assert len({one.id, *(o.id for o in others)}) == 5
    same = Example.create(one.tokens, one.weights * 2, *rest, origin="simulate", lineage=one.lineage)
    assert same.id == one.id  # which tokens count, not how much


def test_examples_round_trip_and_open_with_tfds(tmp_path):
    examples = [example(seed, time=5 + seed, kept=1 + seed) for seed in range(4)]
    directory = tmp_path / "dataset" / "1.0.0"
    assert write_examples(directory, examples, header=HEADER) == 4
    for got, want in zip(read_examples(directory, tokenizer="abc"), examples, strict=True):
        assert (got.id, got.origin, got.lineage) == (want.id, want.origin, want.lineage)
        for name in ("tokens", "weights", "ids"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
            assert getattr(got, name).dtype == getattr(want, name).dtype
        np.testing.assert_allclose(got.probs, want.probs, rtol=4e-3)
        np.testing.assert_allclose(got.tail, want.tail, rtol=4e-3, atol=1e-6)
    header = json.loads((directory / "record.json").read_text())
    assert header["records"] == 4 and header["K"] == 4 and header["unwarped"] and header["temperature"] == 1.0
    source = tfds.builder_from_directory(directory).as_data_source(split="train")
    assert len(source) == 4
    np.testing.assert_array_equal(source.__getitems__([2, 0])[0]["tokens"], examples[2].tokens)


def test_same_rows_same_bytes(tmp_path):
    digests = []
    for parent in ("one", "two"):
        directory = tmp_path / parent / "dataset" / "1.0.0"
        write_examples(directory, [example(s) for s in range(3)], header=HEADER)
        write_examples(directory, [example(s) for s in range(3)], header=HEADER)  # replaces
        assert [p.name for p in directory.parent.iterdir()] == ["1.0.0"]
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in directory.iterdir()})
    assert digests[0] == digests[1] and len(digests[0]) == 4


def test_interrupted_write_leaves_the_old_one(tmp_path):
    directory = tmp_path / "dataset" / "1.0.0"

    def rows():
        yield {"n": 1}
        raise KeyboardInterrupt

    schema = tfds.features.FeaturesDict({"n": np.int32})
    with pytest.raises(KeyboardInterrupt):
        write_dataset(directory, "dataset", schema, rows(), metadata={})
    assert not directory.exists()
    assert write_dataset(directory, "dataset", schema, [{"n": 1}, {"n": 2}], metadata={"note": "x"}) == 2
    with pytest.raises(KeyboardInterrupt):
        write_dataset(directory, "dataset", schema, rows(), metadata={})
    assert [row["n"] for row in tfds.builder_from_directory(directory).as_data_source("train")] == [1, 2]
    with pytest.raises(RecordError, match="no examples"):
        write_dataset(directory, "dataset", schema, [], metadata={})
    assert directory.exists()


def test_reading_refuses_what_it_cannot_trust(tmp_path):
    directory = tmp_path / "dataset" / "1.0.0"
    with pytest.raises(RecordError, match="no training set here"):
        read_examples(directory)
    write_examples(directory, [example(1), example(2)], header=HEADER)
    with pytest.raises(RecordError, match="tokenizer is abc, expected def"):
        read_examples(directory, tokenizer="def")
    shard = next(directory.glob("*array_record*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecordError, match="array_record"):
        read_examples(directory)


def test_a_forged_example_is_named(tmp_path):
    directory, one = tmp_path / "dataset" / "1.0.0", example(1)
    row = {
        "id": one.id,
        "tokens": one.tokens + 1,
        "weights": one.weights,
        "targets": np.frombuffer(pack_targets(one.ids, one.probs, VOCAB), np.uint8),
        "origin": one.origin,
        "lineage": json.dumps(one.lineage),
    }
    write_dataset(directory, "dataset", features(), [row], metadata=HEADER)
    with pytest.raises(RecordError, match=f"example {one.id}: the id does not match") as caught:
        read_examples(directory)
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(payloads=st.lists(st.binary(max_size=300), max_size=8))
def test_units_round_trip(tmp_path_factory, payloads):
    path = tmp_path_factory.mktemp("unit") / "simulate" / "unit-00000.array_record"
    sha256 = write_unit(path, payloads)
    assert read_unit(path, sha256) == payloads == read_unit(path)
    assert write_unit(path, payloads) == sha256
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_damaged_units_are_named(tmp_path):
    path = tmp_path / "unit-00000.array_record"
    payloads = [bytes([i]) * 500 for i in range(20)]
    sha256 = write_unit(path, payloads)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[100] ^= 1
    for damaged in (whole[:1000], bytes(flipped), b"", b"junk" * 100):
        path.write_bytes(damaged)
        with pytest.raises(RecordError, match="unit-00000.array_record: the") as caught:
            read_unit(path, sha256)
        assert "\n" not in str(caught.value)
    with pytest.raises(RecordError, match="missing"):
        read_unit(tmp_path / "none", sha256)
    assert write_unit(path, [b"ab", b"c"]) != write_unit(path, [b"a", b"bc"])
    with pytest.raises(RecordError, match="does not match its sha256"):  # whole, but another unit
        read_unit(path, sha256)
    path.write_bytes(whole[: len(whole) // 2])  # ArrayRecord reads this as an empty file
    with pytest.raises(RecordError, match="unit-00000.array_record: the"):
        read_unit(path, sha256)


def test_interrupted_unit_leaves_the_old_one(tmp_path):
    path = tmp_path / "unit-00000.array_record"
    sha256 = write_unit(path, [b"whole"])

    def payloads():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_unit(path, payloads())
    assert read_unit(path, sha256) == [b"whole"]

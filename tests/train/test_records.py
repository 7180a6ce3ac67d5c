import hashlib
import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from ratchet.train.codec import pack_targets
from ratchet.train.files import RecordError
from ratchet.train.records import Example, features, read_examples, write_dataset, write_examples

VOCAB = 152_000
HEADER = {"vocab_size": VOCAB, "tokenizer": "abc", "temperature": 1.0}


def example(seed=0, time=12, kept=4, **lineage):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, time)
    weights = (np.arange(time) >= time // 2) * np.float32(0.75)
    count = int((weights > 0).sum())
    ids = np.stack([rng.choice(VOCAB, kept, replace=False) for _ in range(count)])
    probs = -np.sort(-rng.dirichlet(np.ones(kept + 1), count)[:, :kept], axis=1)
    return Example.create(
        tokens, weights, ids, probs, 1 - probs.sum(1), origin="simulate", lineage={"transcript": f"t{seed}", **lineage}
    )


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


def test_examples_that_mention_nothing_sought_are_passed_over(tmp_path):
    examples = [example(seed) for seed in range(3)]
    sought = Example.create(*(getattr(examples[0], n) for n in ("tokens", "weights", "ids", "probs", "tail")),
                            origin="student", lineage={"transcript": "t-17"})
    directory = tmp_path / "dataset" / "1.0.0"
    write_examples(directory, [*examples, sought], header=HEADER)
    assert [e.id for e in read_examples(directory, mentioning="t-17")] == [sought.id]
    assert read_examples(directory, mentioning="t-18") == []


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
    with pytest.raises(RecordError, match="record.json: the file is missing; resume the run"):
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


@pytest.mark.parametrize("header", [{}, HEADER])
def test_a_dataset_of_another_kind_is_refused_in_one_line(tmp_path, header):
    directory, text = tmp_path / "dataset" / "1.0.0", tfds.features.Text()
    row = {"id": "a", "text": "a story"}
    write_dataset(directory, "dataset", tfds.features.FeaturesDict(dict.fromkeys(row, text)), [row], metadata=header)
    with pytest.raises(RecordError, match="example 0" if header else "this is no training set") as caught:
        read_examples(directory, tokenizer="abc")
    assert str(directory) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "prose", "[1]"])
def test_a_header_that_is_no_object_is_refused_in_one_line(tmp_path, text):
    directory = tmp_path / "dataset" / "1.0.0"
    write_examples(directory, [example(1)], header=HEADER)
    (directory / "record.json").write_text(text)
    with pytest.raises(RecordError, match="record.json: this is no JSON object") as caught:
        read_examples(directory)
    assert "\n" not in str(caught.value)

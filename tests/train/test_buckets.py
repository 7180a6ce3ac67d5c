"""What a run writes lies in a bucket as on a disk: files, units, datasets, checkpoints, metrics."""

import asyncio
import json
import os
import tempfile
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from etils import epath
from stores import Killed, dying, now_and_then
from support import assert_same_bits, random_examples

from ratchet.bootstrap.progress import Metrics
from ratchet.train import buckets, files, holder, turns
from ratchet.train.buckets import StoreError, answering, create, in_bucket, reach, read, reason, upload
from ratchet.train.checkpoint import CheckpointError, Checkpoints, has_weights, load_weights, save_weights
from ratchet.train.commits import AlteredError, Commits
from ratchet.train.files import RecordError, add_line, read_unit, whole, write_json, write_unit
from ratchet.train.monitor import Profile
from ratchet.train.records import has_examples, metadata_of, read_examples, write_examples

HEADER = {"vocab_size": 64, "tokenizer": "t", "temperature": 1.0}


@pytest.fixture(params=["gs", "s3"])
def store(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(store, request):
    """A directory of the bucket that this test has for itself."""
    return store.bucket / request.node.name.replace("[", "-").rstrip("]")


def names(place) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_a_file_appears_whole_and_takes_the_place_of_another(place):
    for text in ("one", "another"):
        with whole(place / "a" / "file.txt") as fresh:
            fresh.write_text(text)
            assert not in_bucket(fresh)
        assert read(place / "a" / "file.txt") == text.encode() == (place / "a" / "file.txt").read_bytes()
    with pytest.raises(ZeroDivisionError), whole(place / "a" / "file.txt") as fresh:
        fresh.write_text(f"half {1 // 0}")
    assert read(place / "a" / "file.txt") == b"another" and names(place / "a") == ["file.txt"]
    write_json(place / "a" / "empty.json", {})
    assert files.object_in(place / "a" / "empty.json") == {} == files.object_in(place / "a" / "none.json")


def test_what_another_process_writes_is_seen_at_once(place):
    """Listings that a library kept would say otherwise."""
    assert not (place / "one").exists() and not list(place.glob("*"))
    upload(_written(b"1"), place / "one")
    other = buckets.fsspec.filesystem(buckets.store_of(place), skip_instance_cache=True)
    assert names(place) == ["one"]
    other.pipe_file(os.fspath(place / "two"), b"2")
    assert names(place) == ["one", "two"] and (place / "two").exists()
    other.rm(os.fspath(place / "one"))
    assert names(place) == ["two"] and not (place / "one").exists()


def _written(content: bytes) -> epath.Path:
    path = epath.Path(tempfile.mkdtemp()) / "file"
    path.write_bytes(content)
    return path


def test_units_are_read_back_and_damage_is_named(place):
    unit = place / "simulate" / "unit-00000.array_record"
    payloads = [bytes([i]) * 300 for i in range(9)]
    sha256 = write_unit(unit, payloads)
    assert read_unit(unit, sha256) == payloads
    content = bytearray(read(unit))
    content[100] ^= 1
    unit.write_bytes(bytes(content))
    with pytest.raises(RecordError, match="unit-00000.array_record: the"):
        read_unit(unit, sha256)
    with pytest.raises(RecordError, match="missing"):
        read_unit(place / "none")


def test_a_dataset_whose_upload_was_torn_is_none_and_is_written_again(place):
    examples, directory = random_examples(5), place / "dataset" / "1.0.0"
    for after in (1, 3):
        with dying(after), pytest.raises(Killed):
            write_examples(directory, examples, header=HEADER)
        assert len(names(directory)) == after and not has_examples(directory)
    assert write_examples(directory, examples, header=HEADER) == 5
    assert has_examples(directory) and all(path.exists() for path in metadata_of(directory))
    assert [e.id for e in read_examples(directory, tokenizer="t")] == [e.id for e in examples]
    write_examples(directory, examples[:2], header=HEADER)
    assert len(read_examples(directory)) == 2 and len(names(directory)) == 4


def test_commits_outlive_a_kill_at_any_upload(place):
    """What is announced, what is written and what is settled are three uploads."""
    Commits(place).write(place / "config.json", {})
    for after in range(3):
        commits, path = Commits(place), place / f"{after}.json"
        with dying(after), pytest.raises(Killed):
            commits.write(path, {"n": after})
        again = Commits(place)
        again.check()
        again.write(path, {"n": after})
        assert again.read(path) == {"n": after} and again.has(path)
    (place / "1.json").write_text("{}")
    with pytest.raises(AlteredError, match=r"1\.json"):
        Commits(place).check()


def state(seed):
    return {"kernel": jax.random.normal(jax.random.key(seed), (8, 16)), "step": np.int32(seed)}


def test_checkpoints_are_bit_exact_and_the_newest_are_kept(place):
    with Checkpoints(place, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(step, state(step), position={"batch": step})
        assert checkpoints.latest() == 3
    assert sorted(name for name in names(place) if name.isdigit()) == ["2", "3"]
    with Checkpoints(place) as reopened:
        found, position = reopened.restore(state(0))
        assert position == {"batch": 3}
        assert_same_bits(found, state(3))
        assert_same_bits(reopened.restore(state(0), step=2)[0], state(2))


def test_a_checkpoint_whose_upload_was_torn_is_none(place):
    with Checkpoints(place) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), position={})
    (place / "2" / "commit_success.txt").unlink()
    with Checkpoints(place) as reopened:
        assert reopened.latest() == 1
        assert_same_bits(reopened.restore(state(0))[0], state(1))
        reopened.save(2, state(5), position={})
    with Checkpoints(place) as reopened:
        assert_same_bits(reopened.restore(state(0))[0], state(5))


def test_a_checkpoint_that_was_killed_in_its_first_or_a_later_upload_is_none(s3, request):
    place = s3.bucket / request.node.name
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, state(1), position={})
    for after in (0, 8):
        with dying(after), pytest.raises(Killed), Checkpoints(place) as checkpoints:
            checkpoints.save(2, state(2), position={})
        with Checkpoints(place) as reopened:
            assert reopened.latest() == 1


def test_a_checkpoint_that_may_not_be_read_is_not_taken_for_a_damaged_one(gs, request):
    place = gs.bucket / request.node.name
    with Checkpoints(place) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), position={})
        checkpoints.wait()
        with gs.refusing(lambda method, path: 403 if "%2Fd%2F" in path or "/d/" in path else 0):
            with pytest.raises(Exception) as raised:  # noqa: PT011  three libraries
                checkpoints.restore(state(0))
            assert reason(raised.value)
        assert_same_bits(checkpoints.restore(state(0))[0], state(2))


def test_weights_are_there_once_they_are_whole(place):
    assert not has_weights(place)
    save_weights(place, state(1))
    save_weights(place, state(2))
    assert has_weights(place)
    assert_same_bits(load_weights(place, state(0)), state(2))
    (place / "0" / "commit_success.txt").unlink()
    assert not has_weights(place)
    with pytest.raises(CheckpointError):
        load_weights(place, state(0))


def test_metrics_of_two_processes_stand_in_one_file_and_on_one_board(place):
    for step in range(2):
        metrics = Metrics(place)
        metrics.log(1, "loop", step, {"loss": 1.0})
        metrics.close()
    lines = [json.loads(line) for line in read(place / "metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines] == [0, 1] and len(names(place / "tensorboard")) >= 1
    metrics = Metrics(place)
    metrics.forget("loop")
    metrics.close()
    assert read(place / "metrics.jsonl") == b""


def test_a_profile_lies_in_the_bucket(gs, request):
    place = gs.bucket / request.node.name
    with Profile((0, 1), os.fspath(place)) as profile:
        profile.before(0)
        jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert names(place / "plugins" / "profile")


def test_lines_are_added_to_an_object(place):
    for line in ("one", "two"):
        add_line(place / "labels.jsonl", line)
    assert read(place / "labels.jsonl") == b"one\ntwo\n"
    (place / "labels.jsonl").write_bytes(b"one\ntwo")
    add_line(place / "labels.jsonl", "three")
    assert read(place / "labels.jsonl") == b"one\ntwo\nthree\n"


def test_of_those_who_create_an_object_one_does(place):
    assert [create(place / "turn", content) for content in (b"a", b"b", b"a")] == [True, False, False]
    assert read(place / "turn") == b"a"


def test_a_bucket_that_is_missing_is_one_line(store):
    nowhere = epath.Path(f"{buckets.store_of(store.bucket)}://ratchet-nowhere/runs/x")
    with pytest.raises(StoreError, match="ratchet-nowhere is not there") as raised:
        reach(nowhere)
    assert "\n" not in str(raised.value)
    reach(store.bucket / "any")
    reach(epath.Path("/nowhere"))


@pytest.fixture
def hasty(monkeypatch):
    """The libraries ask again at once when they are refused."""

    async def at_once(seconds):
        await asyncio.sleep(0)

    for module in ("gcsfs.retry", "s3fs.core", "aiobotocore.endpoint"):
        monkeypatch.setattr(f"{module}.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": at_once}))


def test_what_is_refused_now_and_then_is_asked_again(store, place, hasty):
    with store.refusing(now_and_then(3)):
        unit, commits = place / "unit-00000.array_record", Commits(place)
        sha256 = write_unit(unit, [b"1", b"2"])
        commits.write(place / "config.json", {"n": 1})
        assert read_unit(unit, sha256) == [b"1", b"2"] and commits.read(place / "config.json") == {"n": 1}
        assert turns.take(place, 1, b"mine") and turns.newest(place) == 1
        assert not turns.take(place, 1, b"another's")


def test_a_bucket_that_does_not_answer_is_one_line_and_hides_nothing(store, place, hasty):
    """What cannot be reached is neither missing nor damaged."""
    Commits(place).write(place / "config.json", {})
    save_weights(place / "model", state(1))
    with store.refusing(lambda method, path: 503):
        for ask in (
            lambda: upload(_written(b"1"), place / "one"), lambda: read(place / "config.json"),
            lambda: turns.newest(place), lambda: reach(place),
        ):  # fmt: skip
            with pytest.raises(StoreError) as raised:
                ask()
            assert "\n" not in str(raised.value)
        for ask in (Commits(place).check, lambda: has_weights(place / "model")):
            with pytest.raises(Exception) as raised:  # noqa: PT011  each library has its own
                ask()
            assert reason(raised.value)
    Commits(place).check()
    assert_same_bits(load_weights(place / "model", state(0)), state(1))


def test_a_process_goes_on_beating_after_a_while_without_answers(store, place, hasty, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.02)
    asked = threading.Event()
    with holder.holding(place) as mine:
        with store.refusing(lambda method, path: asked.set() or 503):
            asked.wait()
        before = read(turns.place(place, 1))
        while read(turns.place(place, 1)) == before:
            assert mine._thread.is_alive()
    assert holder.holder_of(place) is None


def test_what_a_library_says_is_told_from_what_others_say(store):
    with store.refusing(lambda method, path: 403), pytest.raises(StoreError, match="does not do it") as raised:
        upload(_written(b"1"), store.bucket / "refused")
    assert "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        read(store.bucket / "none")
    with pytest.raises(OSError, match="own"), answering(store.bucket):
        raise OSError("my own")
    assert reason(ValueError("loss")) is None and reason(OSError("disk")) is None

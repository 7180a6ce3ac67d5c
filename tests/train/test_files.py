import os

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.train.files import RecordError, add_line, content_hash, read_unit, whole, write_unit


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
    write_unit(path, [b"another"])
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


def test_a_content_hash_tells_where_its_parts_end():
    assert content_hash([b"ab", b"c"]) == content_hash([b"ab", b"c"]) != content_hash([b"a", b"bc"])


def test_a_directory_takes_the_place_of_another_whole(tmp_path):
    def make(name, error=None):
        with whole(tmp_path / "made") as fresh:
            fresh.mkdir()
            (fresh / name).write_text(name)
            if error:
                raise error

    make("old")
    make("new")
    with pytest.raises(OSError, match="no room"):
        make("half", OSError("no room"))
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["new"]


def test_all_of_a_directory_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """Its files, those below, and its own list of names, which a disk keeps apart from them."""
    synced, real = set(), os.fsync

    def sync(handle):
        synced.add(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", sync)
    with whole(tmp_path / "made") as fresh:
        (fresh / "below").mkdir(parents=True)
        (fresh / "below" / "file").write_text("so")
    assert {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))} <= synced


@pytest.mark.parametrize(("before", "after"), [("", ""), ("one\n", "one\n"), ("one", "one\n"), ("one\n\n", "one\n\n")])
def test_a_line_is_added_behind_the_last_one(tmp_path, before, after):
    """Whoever wrote the file may have left out its last line break."""
    file = epath.Path(tmp_path) / "labels.jsonl"
    file.write_text(before)
    add_line(file, "two")
    add_line(file, "three")
    assert file.read_text() == f"{after}two\nthree\n"

import pytest
from etils import epath

from ratchet.bootstrap.ledger import Stage
from ratchet.train.records import RecordError


def stage(tmp_path):
    return Stage(epath.Path(tmp_path) / "simulate")


def never():
    raise AssertionError("a finished unit is never redone")


def test_a_finished_unit_is_read_and_never_redone(tmp_path):
    assert stage(tmp_path).unit(3, "inputs", lambda: [b"a", b""]) == [b"a", b""]
    assert stage(tmp_path).unit(3, "inputs", never) == [b"a", b""]


def test_a_torn_unit_is_redone(tmp_path):
    stage(tmp_path).unit(0, "inputs", lambda: [b"old"])
    (tmp_path / "simulate" / "unit-00000.json").unlink()  # killed before the commit
    assert stage(tmp_path).unit(0, "inputs", lambda: [b"new"]) == [b"new"]
    assert stage(tmp_path).unit(0, "inputs", never) == [b"new"]


def test_a_torn_commit_is_no_commit(tmp_path):
    stage(tmp_path).unit(0, "inputs", lambda: [b"old"])
    (tmp_path / "simulate" / "unit-00000.json").write_text("")
    with pytest.raises(RecordError, match="unit-00000.json: it commits no unit; resume the run"):
        stage(tmp_path).committed()
    assert stage(tmp_path).unit(0, "inputs", lambda: [b"new"]) == [b"new"]
    assert stage(tmp_path).committed() == [b"new"]


def test_a_unit_made_from_other_inputs_is_redone(tmp_path):
    stage(tmp_path).unit(0, "before", lambda: [b"old"])
    assert stage(tmp_path).unit(0, "after", lambda: [b"new"]) == [b"new"]


def test_the_hash_of_a_unit_is_that_of_its_content(tmp_path):
    for number, payloads in enumerate([[b"a", b"b"], [b"a", b"c"], [b"a", b"b"]]):
        stage(tmp_path).unit(number, "inputs", lambda payloads=payloads: payloads)
    first, other, same = (stage(tmp_path).sha256(n) for n in range(3))
    assert first == same != other


def test_committed_units_are_read_in_order(tmp_path):
    for number in (10, 2):
        stage(tmp_path).unit(number, "inputs", lambda number=number: [b"%d" % number])
    assert stage(tmp_path).committed() == [b"2", b"10"]
    assert Stage(epath.Path(tmp_path) / "nothing").committed() == []


def test_nothing_is_committed_when_making_fails(tmp_path):
    with pytest.raises(ZeroDivisionError):
        stage(tmp_path).unit(0, "inputs", lambda: 1 // 0)
    assert stage(tmp_path).unit(0, "inputs", lambda: []) == []


def test_a_truncated_unit_is_named_with_the_remedy(tmp_path):
    stage(tmp_path).unit(0, "inputs", lambda: [b"x" * 5000])
    file = tmp_path / "simulate" / "unit-00000.array_record"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RecordError, match="unit-00000.array_record.*delete it and resume") as caught:
        stage(tmp_path).unit(0, "inputs", never)
    assert "\n" not in str(caught.value)


def test_the_records_of_another_unit_are_named_too(tmp_path):
    for number in range(2):
        stage(tmp_path).unit(number, "inputs", lambda number=number: [b"%d" % number])
    first, other = (tmp_path / "simulate" / f"unit-0000{number}.array_record" for number in range(2))
    other.write_bytes(first.read_bytes())
    for ask in (lambda: stage(tmp_path).unit(1, "inputs", never), stage(tmp_path).committed):
        with pytest.raises(RecordError, match="unit-00001.array_record: .*sha256"):
            ask()


def test_a_damaged_unit_is_made_again_once_its_file_is_deleted(tmp_path):
    stage(tmp_path).unit(0, "inputs", lambda: [b"x"])
    (tmp_path / "simulate" / "unit-00000.array_record").unlink()
    assert stage(tmp_path).unit(0, "inputs", lambda: [b"x"]) == [b"x"]

"""Turns at a run in a bucket: one process at a time, whatever its clock says, also where two begin at once."""

import json
import threading
import time

import pytest
from etils import epath
from test_holder import left

from ratchet.train import holder, turns
from ratchet.train.holder import Busy, holder_of, holding


@pytest.fixture(params=["gs", "s3"])
def directory(request):
    return request.getfixturevalue(request.param).bucket / request.node.name.replace("[", "-").rstrip("]")


def begun(directory, number: int, **record) -> dict:
    """A turn that another process began."""
    record = {"host": "elsewhere", "pid": 7, "since": 0.0, "heard": time.time(), "doing": None} | record
    turns.place(directory, number).write_text(json.dumps(record))
    return record


def test_the_second_is_refused_while_the_first_beats_and_goes_on_when_it_has_ended(directory, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.05)
    with holding(directory) as mine:
        assert holder_of(directory)["pid"] == mine._who["pid"]
        with pytest.raises(Busy, match="works on this run; stop it or let it end"), holding(directory):
            pytest.fail("two held it")
    assert holder_of(directory) is None and turns.newest(directory) == 1
    with holding(directory):
        assert turns.newest(directory) == 2
    assert [path.name for path in (directory / turns.PLACE).iterdir()] == ["000002.json"]


def test_a_process_that_is_silent_is_dead_whatever_its_clock_says(directory, patience):
    begun(directory, 3, heard=time.time() + 1e6)
    assert holder_of(directory) is None and sum(patience.slept) == holder.WATCH
    patience.slept.clear()
    said = []
    with holding(directory, said.append):
        assert sum(patience.slept) == holder.SILENCE and turns.newest(directory) == 4
    assert len(said) == 1 and "process 7 on elsewhere" in said[0]


def test_a_process_whose_clock_is_wrong_is_alive_as_long_as_it_beats(directory, patience):
    begun(directory, 1, heard=-1e6)
    patience.during = lambda: begun(directory, 1, heard=-1e6 + len(patience.slept))
    assert holder_of(directory)["host"] == "elsewhere"
    with pytest.raises(Busy), holding(directory):
        pytest.fail("two held it")


def test_of_many_that_begin_at_once_one_has_the_turn(directory):
    together, won = threading.Barrier(6), []

    def begin(number: int) -> None:
        together.wait()
        if turns.take(directory, 1, b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=begin, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and turns.place(directory, 1).read_bytes() == b"%d" % won[0]


def test_who_was_overtaken_while_it_waited_does_not_begin(directory):
    begun(directory, 1)
    begun(directory, 3)  # the second has come and gone
    assert not turns.take(directory, 2, b"late")
    assert sorted(path.name for path in (directory / turns.PLACE).iterdir()) == ["000001.json", "000003.json"]


def test_an_answer_that_was_lost_is_no_refusal(directory, monkeypatch):
    """The object was made, and the library asked again."""
    monkeypatch.setattr(turns, "create", lambda path, content: path.write_bytes(content) == 0)
    assert turns.take(directory, 1, b"mine")


def test_a_store_that_lets_everyone_make_the_same_object_gives_the_turn_to_the_last(directory, patience, monkeypatch):
    monkeypatch.setattr(turns, "create", lambda path, content: path.write_bytes(content) or True)
    assert turns.take(directory, 1, b"mine") and patience.slept == [turns.SETTLING]
    patience.during = lambda: turns.place(directory, 2).write_bytes(b"another's")
    assert not turns.take(directory, 2, b"mine")


def test_a_process_that_was_overtaken_stops_and_says_by_whom(directory, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.02)
    with holding(directory) as mine:
        other = begun(directory, 2)
        mine._thread.join()
        with pytest.raises(Busy, match="process 7 on elsewhere"):
            mine.check()
    assert json.loads(turns.place(directory, 2).read_text()) == other, "what it leaves alone"


def test_on_a_disk_too_a_process_that_was_overtaken_stops(tmp_path, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.02)
    with holding(epath.Path(tmp_path)) as mine:
        left(epath.Path(tmp_path))
        mine._thread.join()
        with pytest.raises(Busy, match="process 7 on elsewhere"):
            mine.check()

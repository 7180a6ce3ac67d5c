"""Turns at a run in a bucket: one process at a time, whatever its clock says, also where two begin at once."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

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


def killed(directory):
    """A process that died without a word while it worked on a run; returns its number."""
    code = (
        "import os, signal, sys; from etils import epath; from ratchet.train.holder import holding\n"
        "with holding(epath.Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", code, directory]) as process:
        assert process.wait() == -signal.SIGKILL
    return process.pid


def test_a_process_of_this_machine_that_was_killed_is_known_to_be_gone(directory, patience):
    pid, said = killed(directory), []
    assert holder_of(directory) is None and patience.slept == []
    with holding(directory, said.append):
        assert patience.slept == [holder.SENT] and turns.newest(directory) == 2
    assert not os.path.exists(holder._lock_of(directory))
    assert len(said) == 1 and f"process {pid} on {socket.gethostname()}" in said[0] and "and is gone" in said[0]


def test_where_another_held_it_since_only_silence_tells_that_a_process_of_this_machine_is_gone(directory, patience):
    """Its lock says nothing of it: the process may live where a machine of the same name has a lock of its own."""
    killed(directory)
    begun(directory, 2, host=socket.gethostname())
    assert holder_of(directory)["pid"] == 7
    with holding(directory):
        assert sum(patience.slept) == holder.SILENCE


def test_of_processes_that_ran_together_only_silence_tells_that_all_are_gone(directory, patience):
    several = SimpleNamespace(count=2, decided=lambda what, decide: decide())
    with holding(directory, together=several):
        left = json.loads(turns.place(directory, 1).read_text())
    begun(directory, 1, **left)
    with holding(directory):
        assert sum(patience.slept) == holder.SILENCE


def test_where_the_machine_has_no_place_for_a_lock_only_silence_tells(directory, patience, monkeypatch):
    monkeypatch.setattr(holder, "_lock_of", lambda _: "/nowhere/lock")
    left = begun(directory, 1, host=socket.gethostname())
    assert holder_of(directory) == left
    with holding(directory):
        assert sum(patience.slept) == holder.SILENCE


def test_a_second_process_of_this_machine_is_refused_at_once(directory, monkeypatch):
    monkeypatch.setattr(holder, "_watched", lambda *_: pytest.fail("it waited"))
    with holding(directory) as mine:
        assert holder_of(directory)["pid"] == mine._who["pid"]
        with pytest.raises(Busy, match="works on this run; stop it or let it end"), holding(directory):
            pytest.fail("two held it")


def test_the_second_is_refused_while_the_first_beats_and_goes_on_when_it_has_ended(directory, monkeypatch):
    monkeypatch.setattr(holder, "BEAT", 0.05)
    monkeypatch.setattr(holder, "_lock", lambda *_: None)  # as on another machine
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
        while mine._thread.is_alive():  # which may write over a record that came just after it had looked
            left(epath.Path(tmp_path))
            mine._thread.join(0.1)
        with pytest.raises(Busy, match="process 7 on elsewhere"):
            mine.check()

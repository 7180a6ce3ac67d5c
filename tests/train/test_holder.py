import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from etils import epath

from ratchet.train import holder
from ratchet.train.holder import LOCK, RECORD, Busy, holder_of, holding


@pytest.fixture
def directory(tmp_path):
    return epath.Path(tmp_path) / "run"


def left(directory, **record):
    """A record that a process left."""
    directory.mkdir(exist_ok=True)
    record = {"host": "elsewhere", "pid": 7, "since": 0.0, "heard": time.time(), "doing": None} | record
    (directory / RECORD).write_text(json.dumps(record))
    return record


def test_one_process_holds_a_run_and_the_next_is_refused_in_a_line_that_names_it(directory):
    with holding(directory):
        with pytest.raises(Busy) as refused, holding(directory):
            pytest.fail("two held it")
        line = str(refused.value)
        assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in line and "\n" not in line
        assert f"`ratchet resume {directory}`" in line
    with holding(directory):
        pass


def test_the_record_says_who_works_at_what_and_goes_with_the_work(directory):
    assert holder_of(directory) is None
    with holding(directory) as mine:
        found = holder_of(directory)
        assert (found["host"], found["pid"], found["doing"]) == (socket.gethostname(), os.getpid(), None)
        mine.doing = {"title": "gen 1 train (loop)", "since": 1.0, "done": 3, "total": 9, "left": None}
        while holder_of(directory)["doing"] != mine.doing:
            time.sleep(0.01)
    assert holder_of(directory) is None and not (directory / RECORD).exists()


def test_a_process_that_was_killed_holds_nothing(directory):
    """It dies without a word, and its record stays behind."""
    code = (
        "import os, signal, sys; from etils import epath; from ratchet.train.holder import holding\n"
        "with holding(epath.Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, directory], check=False)
    assert killed.returncode == -signal.SIGKILL and (directory / RECORD).exists()
    assert holder_of(directory) is None
    with holding(directory):
        assert holder_of(directory)["pid"] == os.getpid()


def test_a_process_on_another_host_is_alive_as_long_as_it_writes_its_record(directory, patience):
    first, said = left(directory), []
    patience.during = lambda: left(directory, heard=first["heard"] + len(patience.slept))
    with pytest.raises(Busy, match="process 7 on elsewhere"), holding(directory, said.append):
        pytest.fail("two held it")
    assert len(patience.slept) == 1 and len(said) == 1 and "process 7 on elsewhere" in said[0]


def test_a_process_on_another_host_is_dead_once_it_is_silent_for_long_whatever_its_clock_says(directory, patience):
    left(directory, heard=time.time() + 1e6)
    with holding(directory):
        assert sum(patience.slept) == holder.SILENCE
        assert holder_of(directory)["pid"] == os.getpid()


def test_a_process_on_another_host_that_ends_meanwhile_is_not_waited_for(directory, patience):
    left(directory)
    patience.during = lambda: (directory / RECORD).unlink(missing_ok=True)
    with holding(directory):
        assert len(patience.slept) == 1


def test_where_there_are_no_locks_a_record_of_this_host_counts_as_one_of_another(directory, patience, monkeypatch):
    def nothing(*_):
        raise OSError("function not implemented")

    monkeypatch.setattr(holder.fcntl, "flock", nothing)
    mine = left(directory, host=socket.gethostname())
    assert holder_of(directory) == mine
    with holding(directory):
        assert sum(patience.slept) == holder.SILENCE
    left(directory, host=socket.gethostname(), heard=time.time() - 2 * holder.SILENCE)
    assert holder_of(directory) is None


def test_a_process_that_was_watched_in_vain_is_not_watched_again(directory, patience):
    """Whoever looks at many runs would wait for each, at every look."""
    left(directory, heard=time.time() - 2 * holder.SILENCE)
    assert holder_of(directory) is None
    waited = sum(patience.slept)
    assert waited and holder_of(directory) is None and sum(patience.slept) == waited
    left(directory, heard=time.time() - 3 * holder.SILENCE)
    assert holder_of(directory) is None and sum(patience.slept) == 2 * waited


def test_looking_whether_a_run_is_held_does_not_refuse_who_begins_just_then(directory, patience):
    with holding(directory):
        pass
    handle = os.open(directory / LOCK, os.O_RDONLY)
    assert holder._lock(handle, holder.fcntl.LOCK_SH, 1)
    patience.during = lambda: holder.fcntl.flock(handle, holder.fcntl.LOCK_UN) if len(patience.slept) == 3 else None
    with holding(directory):
        assert len(patience.slept) == 3
    os.close(handle)


def test_a_full_disk_does_not_end_the_process_by_its_record(directory, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with holding(directory) as mine:
        monkeypatch.setattr(holder, "whole", full)
        mine.doing = {"title": "gen 1 review"}
    assert not (directory / RECORD).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"host": "\xe9"}', b'{"host": [], "pid": "x"}', bytes(90)])
def test_a_damaged_record_is_none_and_the_lock_tells(directory, content):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / RECORD).write_bytes(content)
    assert holder_of(directory) is None
    with holding(directory):
        assert holder_of(directory)["pid"] == os.getpid()

"""What is done with memory that is freed, in processes of their own: it is said once for all of a process."""

import platform
import queue
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ratchet.train import memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this is glibc's allocator")
USED = """
import ctypes, resource
from ratchet.train import memory

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]


def use(megabytes):
    room = libc.malloc(megabytes << 20)  # above 32 MiB, glibc never learns by itself to keep it
    ctypes.memset(room, 1, megabytes << 20)
    libc.free(room)


def held():
    return memory.held() >> 20

"""


def numbers(code: str) -> list[int]:
    ended = subprocess.run([sys.executable, "-c", USED + code], capture_output=True, text=True, check=True)
    return list(map(int, ended.stdout.split()))


@pytest.mark.parametrize("keep", [False, True])
def test_memory_that_was_freed_is_used_again(keep):
    code = """
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use(64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    pages = (64 << 20) // 4096
    (faults,) = numbers(("memory.keep_freed()" if keep else "") + code)
    assert (faults < 2 * pages) == keep, "each of ten times touches all pages anew, or only the first does"


def test_what_was_kept_is_given_back_when_it_is_asked_for():
    before, kept, after = numbers("""
memory.keep_freed()
before = held()
for size in (300, 100, 200):
    use(size)
kept = held()
memory.give_back()
print(before, kept, held())
""")
    assert kept - before > 250 and after - before < 100


def test_a_process_gives_back_now_and_then_while_it_holds_plenty(monkeypatch):
    holds, given = iter([memory.PLENTY + 1, memory.PLENTY, 0, 2 * memory.PLENTY]), []
    monkeypatch.setattr(memory, "held", lambda: next(holds))
    monkeypatch.setattr(memory, "give_back", lambda: given.append(len(slept)))
    slept = []
    monkeypatch.setattr(memory.time, "sleep", slept.append)
    with pytest.raises(StopIteration):  # there is nothing more that it holds
        memory._giving_back()
    assert given == [1, 4] and {*slept} == {memory.NOW_AND_THEN}


def test_a_thread_gives_back_and_keeps_no_process_from_ending(monkeypatch):
    started = queue.SimpleQueue()
    monkeypatch.setattr(memory, "_giving_back", lambda: started.put(threading.current_thread()))
    memory.give_back_now_and_then()
    assert started.get(timeout=3600).daemon


def test_elsewhere_nothing_is_done(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    memory.keep_freed()
    memory.give_back()
    memory.give_back_now_and_then()


def test_what_a_process_holds_is_what_the_system_says():
    said = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    assert abs(memory.held() - int(said["VmRSS"].split()[0]) * 1024) < 64 << 20

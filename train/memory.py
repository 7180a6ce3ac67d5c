"""What the C library does with memory that is freed: on CPUs, XLA takes all that it computes with from there."""

import ctypes
import functools
import os
import platform
import threading
import time
from pathlib import Path

_ARENA_MAX, _MMAP_MAX, _TOP_PAD, _TRIM_THRESHOLD = -8, -4, -2, -1  # malloc.h

PLENTY = 4 << 30
"""Bytes that a process may hold before it gives back what it has freed in the middle of its work."""
NOW_AND_THEN = 10.0
"""Seconds between two such times: what was given back has to be taken from the system again."""


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def keep_freed() -> None:
    """Has glibc keep what is freed for the next allocation, in one arena; elsewhere this does nothing.

    XLA's CPU backend allocates its temporaries anew in every step, which glibc would take from the system and give back
    each time: a third of a small model's training step went into page faults.
    """
    if libc := _glibc():
        large = (1 << 31) - 1
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TOP_PAD, 1 << 28), (_TRIM_THRESHOLD, large)):
            libc.mallopt(parameter, value)


def give_back() -> None:
    """Gives what is freed back to the system, as between two stages that compute with arrays of other sizes; where
    there is no glibc this does nothing."""
    if libc := _glibc():
        libc.malloc_trim(0)


def give_back_now_and_then() -> None:
    """Has a thread of its own give back what is freed, while the process holds plenty: in stages of large models,
    arrays of many sizes leave more and more room between them."""
    if _glibc():
        threading.Thread(target=_giving_back, name="give back", daemon=True).start()


def _giving_back() -> None:
    while True:
        time.sleep(NOW_AND_THEN)
        if held() > PLENTY:
            give_back()


def held() -> int:
    """The bytes of memory that this process holds, 0 where the system does not say."""
    said = Path("/proc/self/statm")
    return int(said.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if said.exists() else 0

"""Where the process begins: how memory is kept comes first, since it counts only until the first thread starts."""

import ctypes
import platform


def keep_freed_memory() -> None:
    """Has glibc keep what is freed for the next allocation, in one arena.

    XLA's CPU backend allocates its temporaries anew in every step, which glibc would take from the system and give back
    each time: a third of a small model's training step went into page faults. Elsewhere this does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    arena_max, mmap_max, top_pad, trim_threshold = -8, -4, -2, -1  # malloc.h
    for parameter, value in ((arena_max, 1), (mmap_max, 0), (top_pad, 1 << 28), (trim_threshold, (1 << 31) - 1)):
        mallopt(parameter, value)


def entry() -> None:
    keep_freed_memory()
    from launch.cli import entry as run  # its imports start threads

    run()


if __name__ == "__main__":
    entry()

"""Where the process begins: what counts only before the first thread starts and before JAX looks for devices."""

import ctypes
import importlib.util
import os
import platform
import sys
from pathlib import Path

from ratchet.train.stopping import heeded


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


def look_for_no_tpu() -> None:
    """libtpu without a TPU, as preflight has it, would complain at length whenever JAX looks for devices."""
    present = any(Path("/dev").glob("accel*")) or Path("/dev/vfio").exists()
    others = importlib.util.find_spec("jax_plugins")
    if importlib.util.find_spec("libtpu") and not present and not others:
        import jax

        jax.config.update("jax_platforms", "cpu")


def entry() -> None:
    keep_freed_memory()
    with heeded(lambda line: print(f"ratchet: {line}", file=sys.stderr, flush=True), patient=False):
        look_for_no_tpu()
        from ratchet.launch.cli import main  # its imports take seconds and start threads
        from ratchet.train.together import current
    status = main()
    try:
        sys.stdout.flush()
    except OSError:  # who read it is gone, and Python would end with a status of its own
        os._exit(status)
    if status and current().count > 1:  # the others may never come to the end that JAX would wait for
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()

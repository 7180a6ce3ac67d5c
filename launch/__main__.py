"""Where the process begins: what counts only before the first thread starts and before JAX looks for devices."""

import atexit
import contextlib
import ctypes.util
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ratchet.launch.lines import say, unheard, waiting
from ratchet.train import memory
from ratchet.train.stopping import AGAIN, ASKING, heeded

PARTING = 3.0
"""Seconds for which the first process stays when it ends with a failure: through it the others hear of that, and JAX
would end them with a status that says nothing of it."""


def look_for_no_chips(devices: Path = Path("/dev")) -> None:
    """Has JAX use the CPU where it finds nothing but compilers that `preflight` needs: libtpu without a TPU, and a
    plugin for CUDA without CUDA's libraries. It would complain at length whenever it looks for devices."""
    plugins, libtpu = importlib.util.find_spec("jax_plugins"), bool(importlib.util.find_spec("libtpu"))
    places = [*plugins.submodule_search_locations] if plugins else []
    found = [path.name for place in places for path in Path(place).iterdir() if not path.name.startswith("_")]
    of_cuda = [name for name in found if name.startswith("xla_cuda")]
    has_tpu = libtpu and (any(devices.glob("accel*")) or (devices / "vfio").exists())
    only_compiles = bool(of_cuda) and not _has_cuda()
    if not (only_compiles or (libtpu and not has_tpu)):
        return
    import jax
    from jax._src import xla_bridge

    if not (jax.config.jax_platforms or has_tpu or len(found) > len(of_cuda) * only_compiles):
        jax.config.update("jax_platforms", "cpu")
    if only_compiles and "cuda" not in str(jax.config.jax_platforms):
        with unheard():  # the plugin says that it finds no CUDA, whatever JAX is to use
            getattr(xla_bridge, "_discover_and_register_pjrt_plugins", lambda: None)()


def _has_cuda() -> bool:
    """Whether CUDA's libraries are there, as packages of Python or of the system."""
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec("nvidia.cublas"):
            return True
    return ctypes.util.find_library("cublas") is not None


def join_others(words: Sequence[str]) -> int:
    """Joins the processes that `--join` names, before a library that is imported later has JAX look for devices.
    Returns the exit status, 0 when this process goes on."""
    from ratchet.train import together

    parted = [part for word in words for part in (word.split("=", 1) if word.startswith("--join=") else [word])]
    try:
        if "--join" in parted[:-1]:
            with waiting("the other processes"):
                together.join(parted[parted.index("--join") + 1])
    except (ValueError, together.PeerGone) as error:
        say(str(error))
        return 2 if isinstance(error, ValueError) else AGAIN
    return 0


def entry() -> None:
    """The `ratchet` script: prepares the process, runs a command and ends the process with its exit status."""
    memory.keep_freed()
    memory.give_back_now_and_then()
    with heeded(say, patient=False):
        look_for_no_chips()
        if status := join_others(sys.argv[1:]):
            os._exit(status)  # JAX may still wait for the others
        from ratchet.launch.cli import main  # what it imports may start threads
    end(main())


def end(status: int) -> None:
    """Ends the process with a status, whatever other processes wait for and signals ask for: those end it at once, or
    in its last moments, when Python would no longer call what answers them, are ignored."""
    from ratchet.train.together import current

    for number in ASKING:
        signal.signal(number, lambda *_: os._exit(status))
        atexit.register(signal.signal, number, signal.SIG_IGN)
    try:
        if sys.stdout:  # a shell may have closed it
            sys.stdout.flush()
    except OSError:  # who read it is gone, and Python would end with a status of its own
        os._exit(status)
    if status and current().count > 1:  # the others may never come to the end that JAX would wait for
        if current().first and status != AGAIN:
            time.sleep(PARTING)
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    entry()

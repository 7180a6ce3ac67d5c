"""Several processes on this machine that run one program together: how a test starts them and how each of them begins.

They wait for each other as long as it takes. Every limit here is for processes that would hang for ever.
"""

import os
import subprocess
import sys
from pathlib import Path

FOR_EVER = 3600
"""Seconds that nothing takes, however busy the machine is."""


def run(script: Path, processes: int, *words) -> list[subprocess.CompletedProcess]:
    """Runs `script` in so many processes, each called as `python SCRIPT PORT PROCESSES NUMBER WORDS...`."""
    import portpicker

    port = portpicker.pick_unused_port()
    around = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    called = [[sys.executable, *map(str, (script, port, processes, n, *words))] for n in range(processes)]
    started = [subprocess.Popen(words, env=around, **pipes) for words in called]
    said = [process.communicate(timeout=FOR_EVER) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *both)
        for process, both in zip(started, said, strict=True)
    ]


def begin(port: str, processes: int, number: int) -> None:
    """Makes this process one of several with four CPU devices in all. Call it before JAX looks for devices."""
    import jax

    from ratchet.train.together import join

    share_compiled(4 // processes)
    join(f"localhost:{port}/{processes}/{number}", FOR_EVER, FOR_EVER)
    assert jax.device_count() == 4 and jax.process_count() == processes


def share_compiled(devices: int) -> None:
    """Gives this process so many CPU devices, and keeps what took long to compile for other processes and for later
    runs of the tests. Call it before JAX looks for devices.

    A program is made for as many threads as there are devices, and may round otherwise than one that was made for
    more: only processes with as many devices share theirs. One that is to be killed must not: it may leave half of a
    program, and who reads that back dies of it.
    """
    import jax

    jax.config.update("jax_platforms", "cpu")  # libtpu, which preflight needs, would look for a TPU
    jax.config.update("jax_num_cpu_devices", devices)
    place = Path.home() / ".cache" / "ratchet" / "tests" / str(devices)
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

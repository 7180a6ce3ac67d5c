"""Several processes on this machine that run one program together: how a test starts them and how each of them begins.

They wait for each other as long as it takes. Every limit here is for processes that would hang for ever.
"""

import os
import subprocess
import sys
from pathlib import Path

FOR_EVER = 3600
"""Seconds that nothing takes, however busy the machine is."""
PATIENT = (
    f"--xla_cpu_collective_call_warn_stuck_timeout_seconds={FOR_EVER}"
    f" --xla_cpu_collective_call_terminate_timeout_seconds={FOR_EVER}"
)
"""For XLA_FLAGS: a CPU device would wait 40 seconds for another one, then end the process."""


def run(script: Path, processes: int, *words) -> list[subprocess.CompletedProcess]:
    """Runs `script` in so many processes, each called as `python SCRIPT PORT PROCESSES NUMBER WORDS...`."""
    import portpicker

    port = portpicker.pick_unused_port()
    around = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "XLA_FLAGS": PATIENT}
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

    share_compiled(4 // processes)
    jax.distributed.initialize(
        f"localhost:{port}", processes, number, initialization_timeout=FOR_EVER,
        heartbeat_timeout_seconds=FOR_EVER, shutdown_timeout_seconds=FOR_EVER,
    )
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


def wait_for_all(name: str) -> None:
    """Returns when every process has called it with this name."""
    from orbax.checkpoint import multihost

    multihost.get_barrier_sync_fn()(key=name, timeout_ms=1000 * FOR_EVER)


def connect(mesh) -> None:
    """Has all groups of the mesh's devices connect at once.

    A group does so when it first exchanges something, and gives its members 30 seconds to come. They might take longer,
    one after the other compiling a program, so they come here first.
    """
    import jax
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    axes = mesh.axis_names
    groups = [tuple(a for i, a in enumerate(axes) if number >> i & 1) for number in range(1, 2 ** len(axes))]
    everywhere = jax.device_put(0.0, NamedSharding(mesh, P()))
    exchange = jax.shard_map(
        lambda x: sum(jax.lax.psum(x, group) for group in groups), mesh=mesh, in_specs=P(), out_specs=P()
    )
    compiled = jax.jit(exchange).lower(everywhere).compile()
    wait_for_all("connect")
    compiled(everywhere).block_until_ready()

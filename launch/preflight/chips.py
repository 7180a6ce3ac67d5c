"""Chips that are described and not present, programs compiled for them, and what these take of a chip's memory."""

import contextlib
import importlib.util
import math
import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from ratchet.models.extras import installing
from ratchet.train import stopping
from ratchet.train.flops import Chip

TOPOLOGIES = "v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2, tpu7x:2x2x1, h100:8, h200:8"
"""Examples for people who name one that is not known."""


class PreflightError(ValueError):
    """Nothing can be compiled, or what was compiled cannot be read: one line that says why."""


def described_chips(topology: str, slices: int = 1) -> list[jax.Device]:
    """The chips of a topology such as "v5e:4x4", of so many slices. Raises PreflightError if there is none such."""
    if not re.match(r"v\d|tpu", topology):
        raise PreflightError(f"preflight: no topology {topology!r}; there are {TOPOLOGIES} and others of TPUs")
    if importlib.util.find_spec("libtpu") is None:
        raise PreflightError(f"preflight: the TPU compiler is missing; {installing('preflight')}")
    # libtpu asks the cloud for these on a TPU machine; here nobody would answer.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    from jax.experimental import topologies

    more = {"num_slices": slices} if slices > 1 else {}
    try:
        chips = list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **more).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0][:160]
        raise PreflightError(
            f"preflight: no topology {topology!r} ({reason}); there are {TOPOLOGIES} and others"
        ) from None
    _handle_signals_again()
    return chips


def _handle_signals_again() -> None:
    """Puts this process's handlers back in place of libtpu's, which would print the compiler's stack."""
    if threading.current_thread() is threading.main_thread():
        for number in stopping.ASKING:
            signal.signal(number, signal.getsignal(number))


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Keeps no compiled programs: those for a machine that is not there cannot be read back."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it asks the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def compiled(
    lowered: jax.stages.Lowered, chip: Chip, given: dict[str, int], beside: dict[str, int], **options: str
) -> tuple[str, dict[str, Any]]:
    """A program's HLO text, "" when it does not fit, and whether it fits with the memory that it takes of a chip.

    `given` are bytes of what the program is given, by name, and `beside` bytes of what lies in the memory besides;
    `options` are the compiler's. Raises PreflightError when the compiler fails.
    """
    memory = {"needed": None, "of": int(chip.memory)}
    try:
        program = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        needed, largest = _refusal(str(error))
        memory["needed"] = None if needed is None else needed + sum(beside.values())
        return "", {"fits": False, "memory": memory | {"consumers": _sorted(given | beside | largest)}}
    m = program.memory_analysis()
    own = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    memory["needed"] = own + m.generated_code_size_in_bytes + sum(beside.values())
    made = {"temporaries": m.temp_size_in_bytes, "program": m.generated_code_size_in_bytes}
    memory["consumers"] = _sorted(given | beside | made)
    return program.as_text(), {"fits": memory["needed"] <= chip.memory, "memory": memory}


def _refusal(message: str) -> tuple[int | None, dict[str, int]]:
    """What the compiler says when memory is short: the bytes that it needs, None where it does not say, and the largest
    arrays that it lists. Raises PreflightError for a message about anything else."""
    if "RESOURCE_EXHAUSTED" not in message:
        raise PreflightError(f"preflight: the compiler failed: {message.splitlines()[0][:300]}")
    scale = {"M": 2**20, "G": 2**30, "T": 2**40}
    used = re.search(r"Used ([\d.]+)([MGT]) of", message)
    listed = re.findall(r"Size: ([\d.]+)([MG])\n(?:\s+Operator: op_(?:name|type)=\"([^\"]*)\")?", message)
    largest = {
        f"{operator or 'array'} ({n})": int(float(size) * scale[unit])
        for n, (size, unit, operator) in enumerate(listed[:5], 1)
    }
    return int(float(used[1]) * scale[used[2]]) if used else None, largest


def bound(seconds: dict[str, float]) -> dict[str, Any]:
    """Seconds of a step by each resource alone, and which is the largest: a step takes at least that."""
    return {"seconds": seconds, "by": max(seconds, key=seconds.get)}


def bound_row(found: dict[str, Any], share: str) -> tuple[str, str]:
    """The bound for a table, with what it means for the user: "MFU at most 40 %"."""
    seconds = ", ".join(f"{name} {1000 * s:.2f} ms" for name, s in found["bound"]["seconds"].items())
    return "a step takes at least", f"{seconds}; bound by {found['bound']['by']}, {share}"


def bytes_on_chip(tree) -> int:
    """Bytes of laid-out arrays, or of their shapes, on one chip."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(tree)
    )


def gib(count: int) -> str:
    """Bytes in words, as "1.50 GiB"."""
    return f"{count / 2**30:.2f} GiB"


def _sorted(consumers: dict[str, int]) -> dict[str, int]:
    return dict(sorted(consumers.items(), key=lambda item: -item[1]))

"""Compiles the real training step for a TPU topology on a machine without TPUs, and says what it would take.

`libtpu` holds the TPU compiler; the topology is described, not present. What the compiler says of memory and of
collectives is what the pod would do; FLOPs are counted from the traced step; times are bounds from data sheets.
"""

import contextlib
import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap.config import Config
from ratchet.launch.collectives import by_kind, collectives, memory_traffic
from ratchet.launch.preflight_inference import bytes_on_chip, sampling, scoring
from ratchet.models.decoder import Decoder, check_sizes
from ratchet.train import optimizer
from ratchet.train.flops import Chip, chip_of, step_flops, traced_flops
from ratchet.train.sharding import batch_sharding, make_mesh, state_sharding
from ratchet.train.trainer import State, make_step

TOPOLOGIES = "v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2"
_BETWEEN_SLICES = 25e9 / 8
"""Bytes a second of a chip between slices: a host's 200 Gbit/s, shared by up to eight chips."""
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
"""Leaves products with gathered weights whole: split into steps they send the same bytes, which are harder to read."""


@dataclass(frozen=True)
class Preflight:
    """What `ratchet preflight` is asked. Every default of the settings comes from the recipe."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    topology: str = "v5e:4x4"
    """Chips of a slice, such as v5e:4x4, v5e:16x16, v6e:4x4 or v5p:2x2x2."""
    slices: int = 1
    """Slices, joined by a slower network along the data axis."""
    step: Literal["train", "sample", "score"] = "train"
    """What is compiled: a step of training, the sampler's dispatch, or a batch of the review's questions."""
    rows: int = 2
    """Rows of a batch on each chip, of `--train.columns` tokens; all of them are predicted."""
    slots: int = 32
    """Answers that each chip samples at a time, or questions that it is asked."""
    json: bool = False
    """Print everything as JSON."""


class PreflightError(ValueError):
    """Nothing can be compiled: one line that says why."""


def preflight(asked: Preflight) -> dict[str, Any]:
    """What a step takes on a topology, as `ratchet preflight --json` prints it. All bytes are a chip's.

    Raises PreflightError without libtpu or for a topology that it does not know, ValueError when the mesh does not fit.
    """
    config = asked.config
    check_sizes(config.model)
    if min(asked.rows, asked.slices, asked.slots) < 1:
        raise PreflightError(
            f"preflight: rows {asked.rows}, slots {asked.slots}, slices {asked.slices}; all must be at least 1"
        )
    mesh = make_mesh(config.mesh, _devices(asked))
    chip = chip_of(mesh.devices.flat[0].device_kind)
    if chip is None:
        raise PreflightError(f"preflight: nothing is known of {mesh.devices.flat[0].device_kind}; see train/flops.py")
    where = {"topology": asked.topology, "slices": asked.slices, "chips": mesh.size, "mesh": dict(mesh.shape)}
    if asked.step != "train":
        with _afresh():
            return where | {"sample": sampling, "score": scoring}[asked.step](config, mesh, chip, asked.slots)
    rows = asked.rows * mesh.shape["data"] * mesh.shape["fsdp"]
    state, batch, step, plain_step = _training_step(config, mesh, rows)
    tokens, columns = rows * config.train.columns, config.train.columns
    with jax.set_mesh(mesh):
        formula = step_flops(config.model, tokens, tokens, columns)
        found = where | {
            "tokens_per_step": tokens, "parameters": _count(state.params),
            "flops": {"per_token": traced_flops(plain_step, state, batch) / tokens, "formula": formula / tokens},
        }  # fmt: skip
        found["flops"]["ratio"] = found["flops"]["per_token"] / found["flops"]["formula"]
        try:
            with _afresh():
                compiled = step.lower(state, batch).compile(compiler_options=_WHOLE_PRODUCTS)
        except jax.errors.JaxRuntimeError as error:
            return found | _out_of_memory(str(error), chip, state, batch, mesh, config)
    found |= _memory(compiled, chip, state, batch)
    text = compiled.as_text()
    sent, found["memory"]["traffic"] = collectives(text, mesh), memory_traffic(text)
    found["collectives"] = by_kind(sent)
    found["largest_collectives"] = [
        {"kind": c.kind, "axes": "×".join(c.axes), "bytes": c.bytes, "times": c.times, "of": c.name} for c in sent[:5]
    ]
    found["fsdp"] = _fsdp(sent, found["parameters"], mesh)
    found["bound"] = _bound(found, sent, chip, mesh)
    return found | {"advice": _advice(found, config, mesh)}


@contextlib.contextmanager
def _afresh() -> Iterator[None]:
    """Without the cache of compiled programs: those for a machine that is not there cannot be read back."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it asks the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def show(found: dict[str, Any], console: Console) -> None:
    """The same for people."""
    gib = lambda count: f"{count / 2**30:.2f} GiB"
    mesh = " × ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    memory, flops = found["memory"], found["flops"]
    table = Table("training step", "", box=None)
    table.add_row("chips", f"{found['chips']} of {found['topology']} in {found['slices']} slice(s): {mesh}")
    needed = "more than there is" if memory["needed"] is None else gib(memory["needed"])
    table.add_row("memory of a chip", f"{needed} of {gib(memory['of'])}" + ("" if found["fits"] else ": does not fit"))
    for name, count in memory["consumers"].items():
        table.add_row("", f"{gib(count)} {name}")
    if "traffic" in memory:
        table.add_row("", f"{gib(memory['traffic'])} read and written in a step")
    table.add_row("FLOPs of a token", f"{flops['per_token']:.4g}, {flops['ratio']:.3f} × the formula")
    for kind, axes in found.get("collectives", {}).items():
        table.add_row(kind, ", ".join(f"{gib(count)} over {axis}" for axis, count in axes.items()))
    if fsdp := found.get("fsdp"):
        table.add_row("gathered for fsdp", f"{fsdp['ratio']:.3f} × the formula; gradients are {fsdp['gradients']}")
    if bound := found.get("bound"):
        seconds = ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in bound["seconds"].items())
        share = f"MFU at most {100 * bound['mfu_at_most']:.0f} %"
        table.add_row("a step takes at least", f"{seconds}; bound by {bound['by']}, {share}")
    for line in found["advice"]:
        table.add_row("advice", line)
    console.print(table)


def _devices(asked: Preflight) -> list[jax.Device]:
    if importlib.util.find_spec("libtpu") is None:
        raise PreflightError("preflight: the TPU compiler is missing; pip install 'ratchet[preflight]'")
    # libtpu asks the cloud for these on a TPU machine; here nobody would answer.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3",
    }  # fmt: skip
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(
            platform="tpu", topology_name=asked.topology, **({"num_slices": asked.slices} if asked.slices > 1 else {})
        ).devices)  # fmt: skip
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0][:160]
        raise PreflightError(
            f"preflight: no topology {asked.topology!r} ({reason}); there are {TOPOLOGIES} and others"
        ) from None


def _training_step(config: Config, mesh: jax.sharding.Mesh, rows: int):
    """(state, batch, jitted step, the same without attention kernels, whose products do not show): shapes with their
    layout; nothing is allocated."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(config.model, nnx.Rngs(params=0))))
    tx = optimizer.create(config.train.optimizer, config.train.steps)
    state = State(params, jax.eval_shape(tx.init, params), jax.ShapeDtypeStruct((), jnp.int32))
    laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    state = jax.tree.map(laid, state, state_sharding(mesh, state))
    columns, keep = config.train.columns, config.simulate.keep
    shapes = dict.fromkeys(("tokens", "positions", "segments", "predict", "labels"), ((rows, columns), jnp.int32))
    shapes |= dict.fromkeys(("weights", "tail"), ((rows, columns), jnp.float32))
    shapes |= {"ids": ((rows, columns, keep), jnp.int32), "probs": ((rows, columns, keep), jnp.float32)}
    shapes |= {"signal": ((rows,), jnp.int32)}
    batch = {n: jax.ShapeDtypeStruct(*shape, sharding=batch_sharding(mesh)) for n, shape in shapes.items()}
    engine = config.train.engine
    return state, batch, *(make_step(graphdef, tx, e) for e in (engine, replace(engine, attention="plain")))


def _memory(compiled, chip: Chip, state: State, batch) -> dict[str, Any]:
    m = compiled.memory_analysis()
    needed = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    needed += m.generated_code_size_in_bytes
    consumers = _resident(state, batch) | {
        "temporaries": m.temp_size_in_bytes, "program": m.generated_code_size_in_bytes,
    }  # fmt: skip
    return {
        "fits": needed <= chip.memory,
        "memory": {"needed": needed, "of": int(chip.memory), "consumers": _sorted(consumers)},
    }


def _resident(state: State, batch) -> dict[str, int]:
    """Bytes that a chip holds from step to step, and of a batch."""
    parts = {"weights": state.params, "optimizer state": state.optimizer, "batch": batch}
    return {name: bytes_on_chip(tree) for name, tree in parts.items()}


def _out_of_memory(message: str, chip: Chip, state: State, batch, mesh, config: Config) -> dict[str, Any]:
    """What the compiler's refusal says: used and available, and the largest arrays it lists."""
    if "RESOURCE_EXHAUSTED" not in message:
        raise PreflightError(f"preflight: the compiler failed: {message.splitlines()[0][:300]}")
    used = re.search(r"Used ([\d.]+)([MGT]) of", message)
    scale = {"M": 2**20, "G": 2**30, "T": 2**40}
    needed = int(float(used[1]) * scale[used[2]]) if used else None
    listed = re.findall(r"Size: ([\d.]+)([MG])\n(?:\s+Operator: op_(?:name|type)=\"([^\"]*)\")?", message)
    largest = {f"{operator or 'array'} ({n})": int(float(size) * scale[unit])
               for n, (size, unit, operator) in enumerate(listed[:5], 1)}  # fmt: skip
    consumers = _sorted(_resident(state, batch) | largest)
    found = {"fits": False, "memory": {"needed": needed, "of": int(chip.memory), "consumers": consumers}}
    return found | {"advice": _advice(found, config, mesh)}


def _fsdp(sent, parameters: int, mesh) -> dict[str, Any] | None:
    """All-gathers over fsdp against the formula: all weights in bfloat16, once forward and once backward."""
    if mesh.shape["fsdp"] == 1:
        return None
    part = parameters // mesh.shape["tensor"]
    gathered = sum(c.total for c in sent if c.kind == "all-gather" and c.axes == ("fsdp",))
    reduced = {kind: sum(c.total for c in sent if c.kind == kind and "fsdp" in c.axes)
               for kind in ("all-reduce", "reduce-scatter")}  # fmt: skip
    kind = "reduce-scattered" if reduced["reduce-scatter"] > reduced["all-reduce"] else "all-reduced"
    return {"gathered": gathered, "formula": 4 * part, "ratio": gathered / (4 * part), "gradients": kind} | reduced


def _bound(found: dict[str, Any], sent, chip: Chip, mesh) -> dict[str, Any]:
    """Seconds of a step by each resource alone, and which is the largest: a step takes at least that."""
    across = sum(c.total for c in sent if c.kind == "send")
    inside = sum(_wire(c, mesh) for c in sent if c.kind != "send")
    seconds = {
        "compute": found["flops"]["per_token"] * found["tokens_per_step"] / mesh.size / chip.flops,
        "memory": found["memory"]["traffic"] / chip.bandwidth,
        "network": inside / chip.network + across / _BETWEEN_SLICES,
    }
    slowest = max(seconds, key=seconds.get)
    ideal = found["flops"]["formula"] * found["tokens_per_step"] / mesh.size / chip.flops
    return {"seconds": seconds, "by": slowest, "mfu_at_most": ideal / seconds[slowest]}


def _wire(c, mesh) -> float:
    """Bytes that a chip sends for a collective in a ring."""
    members = 1
    for axis in c.axes:
        members *= mesh.shape[axis]
    share = (members - 1) / max(members, 1)
    return c.total * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(c.kind, share)


def _advice(found: dict[str, Any], config: Config, mesh) -> list[str]:
    """What to change, the most useful first."""
    engine, advice = config.train.engine, []
    if not found["fits"]:
        if engine.remat != "full":
            advice.append("--train.engine.remat full keeps one activation a layer")
        if engine.dtype != "bfloat16":
            advice.append("--train.engine.dtype bfloat16 halves activations and gathered weights")
        if mesh.shape["data"] > 1:
            advice.append("--mesh.fsdp -1 splits weights and optimizer over all chips of a slice")
        advice.append(f"--train.engine.micro-batches {2 * engine.micro_batches}, or fewer --rows, shrinks temporaries")
        advice.append("--mesh.tensor 2 splits layers and vocabulary; or take more chips")
    elif found["bound"]["by"] == "network":
        advice.append("the network is the bound: more --rows a chip, or fewer chips along fsdp")
    elif found["bound"]["by"] == "memory":
        advice.append("memory traffic is the bound: more --rows a chip")
    return advice


def _count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _sorted(consumers: dict[str, int]) -> dict[str, int]:
    return dict(sorted(consumers.items(), key=lambda item: -item[1]))

"""What a step of training takes on a described topology: memory, FLOPs, traffic between chips, and the bound."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from ratchet.bootstrap.config import Config
from ratchet.launch.preflight import gpus
from ratchet.launch.preflight.chips import bound, bound_row, bytes_on_chip, compiled, gib
from ratchet.launch.preflight.collectives import Collective, by_kind, collectives, memory_traffic
from ratchet.models import decoder
from ratchet.train import lora, optimizer
from ratchet.train.flops import Chip, step_flops, traced_flops
from ratchet.train.sharding import batch_sharding, laid_out, state_sharding
from ratchet.train.trainer import State, make_step

_BETWEEN_SLICES = 25e9 / 8
"""Bytes a second of a chip between slices: a host's 200 Gbit/s, shared by up to eight chips."""
_WHOLE_PRODUCTS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"}
"""Leaves products with gathered weights whole: split into steps they send the same bytes, which are harder to read."""


def training(
    config: Config, mesh: jax.sharding.Mesh, chip: Chip, rows_a_chip: int, option: str = "--rows"
) -> dict[str, Any]:
    """What a step takes with so many rows of a batch on each chip of data × fsdp; the `option` says how many, in what
    is advised. All bytes are a chip's."""
    rows = rows_a_chip * mesh.shape["data"] * mesh.shape["fsdp"]
    (state, batch, frozen), step, plain_step = _step(config, mesh, rows)
    tokens, columns = rows * config.train.columns, config.train.columns
    weights = state.params if frozen is None else frozen
    parts = {"weights": weights, "optimizer state": state.optimizer, "batch": batch}
    if frozen is not None:
        parts["adapters"] = state.params
    with jax.set_mesh(mesh):
        formula = step_flops(config.model, tokens, tokens, columns, frozen=frozen is not None)
        traced = traced_flops(inspect.unwrap(plain_step), state, batch, frozen)  # it takes no compiler's options
        found = {
            "tokens_per_step": tokens,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights)),
            "flops": {"per_token": traced / tokens, "formula": formula / tokens, "ratio": traced / formula},
        }
        given = {name: bytes_on_chip(tree) for name, tree in parts.items()}
        options = gpus.options(mesh) or _WHOLE_PRODUCTS
        text, fit = compiled(step.lower(state, batch, frozen), chip, given, {}, **options)
    found |= fit
    if text:
        sent, found["memory"]["traffic"] = collectives(text, mesh), memory_traffic(text)
        found["collectives"] = by_kind(sent)
        found["largest_collectives"] = [
            {"kind": c.kind, "axes": "×".join(c.axes), "bytes": c.bytes, "times": c.times, "of": c.name}
            for c in sent[:5]
        ]
        found["fsdp"] = _fsdp(sent, found["parameters"], mesh)
        found["bound"] = _bound(found, sent, chip, mesh)
    return found | {"advice": _advice(found, config, mesh, option)}


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What `training` found, by name and in words, for a table."""
    flops = found["flops"]
    if "traffic" in found["memory"]:
        yield "", f"{gib(found['memory']['traffic'])} read and written in a step"
    yield "FLOPs of a token", f"{flops['per_token']:.4g}, {flops['ratio']:.3f} × the formula"
    for kind, axes in found.get("collectives", {}).items():
        yield kind, ", ".join(f"{gib(count)} over {axis}" for axis, count in axes.items())
    if fsdp := found.get("fsdp"):
        yield "gathered for fsdp", f"{fsdp['ratio']:.3f} × the formula; gradients are {fsdp['gradients']}"
    if "bound" in found:
        yield bound_row(found, f"MFU at most {100 * found['bound']['mfu_at_most']:.0f} %")


def _step(config: Config, mesh: jax.sharding.Mesh, rows: int):
    """((state, batch, frozen weights or None), jitted step, the same without attention kernels, whose products do not
    show): shapes with their layout; nothing is allocated."""
    graphdef, params = decoder.shapes(config.model)
    tx, frozen = optimizer.create(config.train.optimizer), None
    if config.train.lora:
        frozen = laid_out(params, state_sharding(mesh, params))
        params = jax.eval_shape(lambda of: lora.create(of, config.train.lora, 0), params)
    state = State(params, jax.eval_shape(tx.init, params), jax.ShapeDtypeStruct((), jnp.int32))
    state = laid_out(state, state_sharding(mesh, state))
    columns, keep = config.train.columns, config.simulate.keep
    shapes = dict.fromkeys(("tokens", "positions", "segments", "predict", "labels"), ((rows, columns), jnp.int32))
    shapes |= dict.fromkeys(("weights", "tail"), ((rows, columns), jnp.float32))
    shapes |= {"ids": ((rows, columns, keep), jnp.int32), "probs": ((rows, columns, keep), jnp.float32)}
    shapes |= {"signal": ((rows,), jnp.int32), "rate": ((rows,), jnp.float32)}
    batch = {n: jax.ShapeDtypeStruct(*shape, sharding=batch_sharding(mesh)) for n, shape in shapes.items()}
    engine = config.train.engine
    if not gpus.are_cards(mesh):
        engine = replace(engine, deterministic=False)  # which is for GPUs
    steps = (make_step(graphdef, tx, e, state) for e in (engine, replace(engine, attention="plain")))
    return (state, batch, frozen), *steps


def _fsdp(sent: list[Collective], parameters: int, mesh: jax.sharding.Mesh) -> dict[str, Any] | None:
    """All-gathers over fsdp against the formula: all weights in bfloat16, once forward and once backward."""
    if mesh.shape["fsdp"] == 1:
        return None
    part = parameters // mesh.shape["tensor"]
    gathered = sum(c.total for c in sent if c.kind == "all-gather" and c.axes == ("fsdp",))
    reduced = {
        kind: sum(c.total for c in sent if c.kind == kind and "fsdp" in c.axes)
        for kind in ("all-reduce", "reduce-scatter")
    }
    kind = "reduce-scattered" if reduced["reduce-scatter"] > reduced["all-reduce"] else "all-reduced"
    return {"gathered": gathered, "formula": 4 * part, "ratio": gathered / (4 * part), "gradients": kind} | reduced


def _bound(found: dict[str, Any], sent: list[Collective], chip: Chip, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The least seconds of a step, and the MFU that it cannot surpass."""
    across = sum(c.total for c in sent if c.kind == "send")
    inside = sum(_wire(c, mesh) for c in sent if c.kind != "send")
    bounds = bound(
        {
            "compute": found["flops"]["per_token"] * found["tokens_per_step"] / mesh.size / chip.flops,
            "memory": found["memory"]["traffic"] / chip.bandwidth,
            "network": inside / chip.network + across / _BETWEEN_SLICES,
        }
    )
    ideal = found["flops"]["formula"] * found["tokens_per_step"] / mesh.size / chip.flops
    return bounds | {"mfu_at_most": ideal / bounds["seconds"][bounds["by"]]}


def _wire(c: Collective, mesh: jax.sharding.Mesh) -> float:
    """Bytes that a chip sends for a collective in a ring."""
    members = math.prod(mesh.shape[axis] for axis in c.axes)
    share = (members - 1) / members
    return c.total * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(c.kind, share)


def _advice(found: dict[str, Any], config: Config, mesh: jax.sharding.Mesh, option: str) -> list[str]:
    """What to change, the most useful first."""
    engine, advice = config.train.engine, []
    if not found["fits"]:
        if engine.remat != "full":
            advice.append("--train.engine.remat full keeps one activation a layer")
        if engine.dtype != "bfloat16":
            advice.append("--train.engine.dtype bfloat16 halves activations and gathered weights")
        if mesh.shape["data"] > 1:
            advice.append("--mesh.fsdp -1 splits weights and optimizer over all chips of a slice")
        fewer = f"--train.engine.micro-batches {2 * engine.micro_batches}, or a smaller {option}"
        advice.append(f"{fewer}, shrinks temporaries")
        advice.append("--mesh.tensor 2 splits layers and vocabulary; or take more chips")
    elif found["bound"]["by"] == "network":
        advice.append(f"the network is the bound: a larger {option}, or fewer chips along fsdp")
    elif found["bound"]["by"] == "memory":
        advice.append(f"memory traffic is the bound: a larger {option}")
    return advice

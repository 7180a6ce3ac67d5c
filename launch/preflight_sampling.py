"""Compiles the sampler's dispatch for a TPU topology on a machine without TPUs, and says what a step of it takes."""

from typing import Any

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

from bootstrap.config import Config
from launch.collectives import collectives, memory_traffic
from models.decoder import Decoder
from models.sampler import Sampler, round_up
from train.flops import Chip
from train.sharding import slots_sharding, state_sharding

_STEP = "while/body/while/body"
"""In the names of a decoding step's operations: slots are refilled in the outer loop, steps are the inner."""


def sampling(config: Config, mesh: jax.sharding.Mesh, chip: Chip, slots_a_chip: int) -> dict[str, Any]:
    """What sampling takes with so many slots on each chip of data × fsdp. All bytes are a chip's.

    By the formula, a step reads the weights in the dtype of the engine and every column of every cache, once.
    """
    c, parts = config.simulate, mesh.shape["data"] * mesh.shape["fsdp"]
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(config.model, nnx.Rngs(params=0))))
    laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    params = jax.tree.map(laid, params, state_sharding(mesh, params))
    sampler = Sampler(
        graphdef, slots=slots_a_chip * parts, new_tokens=c.new_tokens, keep=c.keep, int8=c.int8_cache,
        dtype=config.train.engine.dtype, rows=slots_sharding(mesh),
    )  # fmt: skip
    columns = round_up(config.model.max_length - c.new_tokens, sampler.bucket)
    lowered, weights, cache = sampler.lowered(params, columns)
    found = {"slots": sampler.slots, "prompt_columns": columns, "new_tokens": c.new_tokens}
    resident = {"weights for sampling": bytes_on_chip(weights), "weights of training": bytes_on_chip(params),
                "caches of slots": bytes_on_chip(cache)}  # fmt: skip
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return found | {"fits": False, "memory": {"needed": None, "of": int(chip.memory), "consumers": resident}}
    m = compiled.memory_analysis()
    program = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    needed = program + m.generated_code_size_in_bytes + resident["weights of training"]
    text = compiled.as_text()
    read, formula = memory_traffic(text, _STEP), resident["weights for sampling"] + resident["caches of slots"]
    sent = [one for one in collectives(text, mesh) if _STEP in one.name]
    kinds = sorted({one.kind for one in sent})
    seconds = {"memory": read / chip.bandwidth, "network": sum(one.bytes for one in sent) / chip.network}
    slowest = max(seconds, key=seconds.get)
    return found | {
        "fits": needed <= chip.memory,
        "memory": {"needed": needed, "of": int(chip.memory),
                   "consumers": resident | {"temporaries": m.temp_size_in_bytes}},
        "step": {"bytes": read, "formula": formula, "ratio": read / formula,
                 "sent": {kind: sum(c.bytes for c in sent if c.kind == kind) for kind in kinds}},
        "bound": {"seconds": seconds, "by": slowest, "tokens_a_second_at_most": sampler.slots / seconds[slowest]},
    }  # fmt: skip


def bytes_on_chip(tree) -> int:
    """Bytes of laid-out arrays on one chip."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for n in leaf.sharding.shard_shape(leaf.shape):
            size *= n
        total += size
    return total


def show(found: dict[str, Any], console: Console) -> None:
    """The same for people."""
    gib = lambda count: f"{count / 2**30:.2f} GiB"
    memory, table = found["memory"], Table("sampling", "", box=None)
    table.add_row("slots", f"{found['slots']:,} of {found['prompt_columns']} + {found['new_tokens']} tokens")
    needed = "more than there is" if memory["needed"] is None else gib(memory["needed"])
    table.add_row("memory of a chip", f"{needed} of {gib(memory['of'])}" + ("" if found["fits"] else ": does not fit"))
    for name, count in memory["consumers"].items():
        table.add_row("", f"{gib(count)} {name}")
    if step := found.get("step"):
        table.add_row("read in a step", f"{gib(step['bytes'])}, {step['ratio']:.3f} × the formula")
        sent = ", ".join(f"{count / 2**20:.2f} MiB {kind}" for kind, count in step["sent"].items())
        table.add_row("sent in a step", sent or "nothing")
        bound = found["bound"]
        seconds = ", ".join(f"{name} {1000 * s:.2f} ms" for name, s in bound["seconds"].items())
        most = f"at most {bound['tokens_a_second_at_most']:,.0f} tokens a second"
        table.add_row("a step takes at least", f"{seconds}; bound by {bound['by']}, {most}")
    if not found["fits"]:
        table.add_row("advice", "fewer --slots, --simulate.int8-cache, or --mesh.tensor 2, which splits heads too")
    console.print(table)

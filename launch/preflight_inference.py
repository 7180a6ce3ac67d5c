"""Compiles the sampler's dispatch, or a batch of the scorer, for a TPU topology on a machine without TPUs, and says
what it takes."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
from flax import nnx
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap.config import Config
from ratchet.launch.collectives import Collective, collectives, memory_traffic
from ratchet.models.decoder import Decoder
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer, answer_probabilities
from ratchet.models.inference import Inference, round_up
from ratchet.train.flops import Chip, layer_weights, traced_flops
from ratchet.train.sharding import slots_sharding, state_sharding

_STEP = "while/body/while/body"
"""In the names of a decoding step's operations: slots are refilled in the outer loop, steps are the inner."""
_OF_A_CONTEXT = 8
"""Questions of a context: two criteria of four claims, say."""


def sampling(config: Config, mesh: jax.sharding.Mesh, chip: Chip, slots_a_chip: int) -> dict[str, Any]:
    """What sampling takes with so many slots on each chip of data × fsdp. All bytes are a chip's.

    By the formula, a step reads the weights in the dtype of the engine and every column of every cache, once.
    """
    c = config.simulate
    graphdef, params = _model(config, mesh)
    rows = slots_sharding(mesh)
    sampler = Sampler(
        graphdef, slots=slots_a_chip * Inference(graphdef, rows=rows).parts, new_tokens=c.new_tokens, keep=c.keep,
        int8=c.int8_cache, dtype=config.train.engine.dtype, rows=rows, attention=config.train.engine.attention,
    )  # fmt: skip
    columns = sampler.columns(config.model, config.model.max_length - c.new_tokens)
    lowered, weights, cache = sampler.lowered(params, columns)
    found = {"slots": sampler.slots, "prompt_columns": columns, "new_tokens": c.new_tokens}
    resident = {"weights for sampling": bytes_on_chip(weights), "weights of training": bytes_on_chip(params),
                "caches of slots": bytes_on_chip(cache)}  # fmt: skip
    compiled, memory = _compiled(lowered, chip, resident)
    if compiled is None:
        return found | memory
    text = compiled.as_text()
    read, formula = memory_traffic(text, _STEP), resident["weights for sampling"] + resident["caches of slots"]
    sent = [replace(one, times=1) for one in collectives(text, mesh) if _STEP in one.name]
    seconds = {"memory": read / chip.bandwidth, "network": sum(one.bytes for one in sent) / chip.network}
    slowest = max(seconds, key=seconds.get)
    return found | memory | {
        "step": {"bytes": read, "formula": formula, "ratio": read / formula, "sent": _by_kind(sent)},
        "bound": {"seconds": seconds, "by": slowest, "tokens_a_second_at_most": sampler.slots / seconds[slowest]},
    }  # fmt: skip


def scoring(config: Config, mesh: jax.sharding.Mesh, chip: Chip, questions_a_chip: int) -> dict[str, Any]:
    """What a batch of the review's questions takes, so many on each chip of data × fsdp, eight of each context that is
    as long as it may be. All bytes are a chip's.

    By the formula, a token costs 2 FLOPs for each weight of a matrix and 4·L·H·E for each key before it, and each
    question once more the head.
    """
    graphdef, params = _model(config, mesh)
    rows, model = slots_sharding(mesh), config.model
    parts = Inference(graphdef, rows=rows).parts
    engine = config.train.engine
    scorer = Scorer(graphdef, questions=questions_a_chip * parts, dtype=engine.dtype, rows=rows,
                    attention=engine.attention)  # fmt: skip
    contexts, length = max(1, questions_a_chip // _OF_A_CONTEXT), 2 * scorer.bucket
    width = max(scorer.bucket, round_up(model.max_length - config.simulate.new_tokens, scorer.bucket) - length)
    lowered, (shared, batch) = scorer.lowered(params, contexts, width, length)
    found = {"questions": scorer.questions, "contexts": contexts * parts, "context_columns": width,
             "question_columns": length}  # fmt: skip
    resident = {"weights for scoring": bytes_on_chip(shared.weights.read), "weights of training":
                bytes_on_chip(params)}  # fmt: skip
    read, said = contexts * parts * width, scorer.questions * length
    keys = read * width / 2 + said * (width + length / 2)
    formula = model.layers * (2 * layer_weights(model) * (read + said) + 4 * model.heads * model.head_size * keys)
    formula += 2 * model.width * model.vocab_size * scorer.questions
    plainly = functools.partial(answer_probabilities, scorer=replace(scorer, attention="plain"))
    flops = traced_flops(plainly, shared, batch)
    found["flops"] = {"of_a_question": flops / scorer.questions, "formula": formula / scorer.questions,
                      "ratio": flops / formula}  # fmt: skip
    compiled, memory = _compiled(lowered, chip, resident)
    if compiled is None:
        return found | memory
    text = compiled.as_text()
    sent, moved = collectives(text, mesh), memory_traffic(text)
    seconds = {
        "compute": flops / mesh.size / chip.flops,
        "memory": moved / chip.bandwidth,
        "network": sum(one.total for one in sent) / chip.network,
    }
    slowest = max(seconds, key=seconds.get)
    return found | memory | {
        "step": {"bytes": moved, "sent": _by_kind(sent)},
        "bound": {"seconds": seconds, "by": slowest, "questions_a_second_at_most": scorer.questions / seconds[slowest]},
    }  # fmt: skip


def _model(config: Config, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """Its definition, and shapes of its parameters with their layout in training."""
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(config.model, nnx.Rngs(params=0))))
    laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return graphdef, jax.tree.map(laid, params, state_sharding(mesh, params))


def _compiled(lowered: jax.stages.Lowered, chip: Chip, resident: dict[str, int]):
    """(compiled program, whether it fits and the memory that it takes), or (None, that it does not)."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, {"fits": False, "memory": {"needed": None, "of": int(chip.memory), "consumers": resident}}
    m = compiled.memory_analysis()
    program = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    needed = program + m.generated_code_size_in_bytes + resident["weights of training"]
    consumers = resident | {"temporaries": m.temp_size_in_bytes}
    return compiled, {"fits": needed <= chip.memory,
                      "memory": {"needed": needed, "of": int(chip.memory), "consumers": consumers}}  # fmt: skip


def _by_kind(sent: Sequence[Collective]) -> dict[str, int]:
    return {kind: sum(c.total for c in sent if c.kind == kind) for kind in sorted({one.kind for one in sent})}


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
    memory, flops, what = found["memory"], found.get("flops"), "scoring" if "questions" in found else "sampling"
    table = Table(what, "", box=None)
    if what == "scoring":
        asked = f"{found['questions']:,} of {found['question_columns']} tokens"
        table.add_row("questions", f"{asked}, of {found['contexts']:,} contexts of {found['context_columns']:,}")
    else:
        table.add_row("slots", f"{found['slots']:,} of {found['prompt_columns']} + {found['new_tokens']} tokens")
    needed = "more than there is" if memory["needed"] is None else gib(memory["needed"])
    table.add_row("memory of a chip", f"{needed} of {gib(memory['of'])}" + ("" if found["fits"] else ": does not fit"))
    for name, count in memory["consumers"].items():
        table.add_row("", f"{gib(count)} {name}")
    if flops:
        table.add_row("FLOPs of a question", f"{flops['of_a_question']:.4g}, {flops['ratio']:.3f} × the formula")
    if step := found.get("step"):
        ratio = f", {step['ratio']:.3f} × the formula" if "ratio" in step else ""
        table.add_row("read and written in a step", gib(step["bytes"]) + ratio)
        sent = ", ".join(f"{count / 2**20:.2f} MiB {kind}" for kind, count in step["sent"].items())
        table.add_row("sent in a step", sent or "nothing")
        bound = found["bound"]
        seconds = ", ".join(f"{name} {1000 * s:.2f} ms" for name, s in bound["seconds"].items())
        unit, most = next((name, value) for name, value in bound.items() if name.endswith("_at_most"))
        most = f"at most {most:,.0f} {unit.split('_')[0]} a second"
        table.add_row("a step takes at least", f"{seconds}; bound by {bound['by']}, {most}")
    if not found["fits"]:
        cache = ", --simulate.int8-cache" if what == "sampling" else ""
        table.add_row("advice", f"fewer --slots{cache}, or --mesh.tensor 2, which splits heads too")
    console.print(table)

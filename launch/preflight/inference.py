"""What the sampler's dispatch, or a batch of the scorer, takes on a described topology."""

import functools
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jax
from flax import nnx

from ratchet.bootstrap.config import Config
from ratchet.launch.preflight import gpus
from ratchet.launch.preflight.chips import bound, bound_row, bytes_on_chip, compiled, gib
from ratchet.launch.preflight.collectives import by_kind, collectives, kernels, memory_traffic
from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.inference import Inference, round_up
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer, answer_probabilities
from ratchet.train.flops import Chip, layer_weights, traced_flops
from ratchet.train.sharding import laid_out, slots_sharding, state_sharding

_STEP = "while/body/while/body"
"""What the names of a decoding step's operations contain: the outer loop refills slots, the inner one takes steps."""
QUESTIONS = 8
"""Questions that the review is taken to ask of an answer: two criteria of each of four steps, for example."""


def sampling(
    config: Config, mesh: jax.sharding.Mesh, chip: Chip, slots_a_chip: int, option: str = "--slots"
) -> dict[str, Any]:
    """What sampling takes with so many slots on each chip of data × fsdp; the `option` says how many, in what is
    advised. All bytes are a chip's.

    By the formula, a step reads the weights in the dtype of the engine and every column of every cache, once.
    """
    c, engine = config.simulate, config.train.engine
    graphdef, params = _model(config, mesh)
    laid = slots_sharding(mesh)
    sampler = Sampler(
        graphdef,
        slots=slots_a_chip * Inference(graphdef, rows=laid).parts,
        new_tokens=c.new_tokens,
        keep=c.keep,
        int8=c.int8_cache,
        dtype=engine.dtype,
        rows=laid,
        attention=engine.attention,
    )
    columns = sampler.columns(config.model, config.model.max_length - c.new_tokens)
    lowered, weights, cache = sampler.lowered(params, columns)
    given = {"weights for sampling": bytes_on_chip(weights), "caches of slots": bytes_on_chip(cache)}
    text, fit = compiled(lowered, chip, given, {"weights of training": bytes_on_chip(params)}, **gpus.options(mesh))
    found = {"slots": sampler.slots, "prompt_columns": columns, "new_tokens": c.new_tokens}
    found |= fit | {"advice": _advice(fit, f"{option}, --simulate.int8-cache")}
    if not text:
        return found
    read, formula = memory_traffic(text, _STEP), sum(given.values())
    sent = [replace(one, times=1) for one in collectives(text, mesh) if _STEP in one.name]
    bounds = bound({"memory": read / chip.bandwidth, "network": sum(one.bytes for one in sent) / chip.network})
    bounds["tokens_a_second_at_most"] = sampler.slots / bounds["seconds"][bounds["by"]]
    step = {"bytes": read, "formula": formula, "ratio": read / formula, "sent": by_kind(sent)}
    if gpus.are_cards(mesh):
        step["kernels"] = kernels(text, _STEP)
    return found | {"step": step, "bound": bounds}


def scoring(
    config: Config, mesh: jax.sharding.Mesh, chip: Chip, questions_a_chip: int, option: str = "--slots"
) -> dict[str, Any]:
    """What a batch of the review's questions takes with so many questions on each chip of data × fsdp, QUESTIONS of
    each context; the `option` says how many, in what is advised. Contexts are as long as they may be. All bytes are a
    chip's."""
    graphdef, params = _model(config, mesh)
    laid, engine, model = slots_sharding(mesh), config.train.engine, config.model
    parts = Inference(graphdef, rows=laid).parts
    scorer = Scorer(
        graphdef, questions=questions_a_chip * parts, dtype=engine.dtype, rows=laid, attention=engine.attention
    )
    contexts, length = max(1, questions_a_chip // QUESTIONS), 2 * scorer.bucket
    width = max(scorer.bucket, round_up(model.max_length - config.simulate.new_tokens, scorer.bucket) - length)
    lowered, (shared, batch) = scorer.lowered(params, contexts, width, length)
    bare = inspect.unwrap(answer_probabilities)  # a trace takes no compiler's options
    plainly = functools.partial(bare, plan=replace(scorer, attention="plain"))
    flops = traced_flops(plainly, shared, batch)
    formula = _formula(model, contexts * parts, scorer.questions, width, length)
    given = {"weights for scoring": bytes_on_chip(shared.weights.read)}
    text, fit = compiled(lowered, chip, given, {"weights of training": bytes_on_chip(params)}, **gpus.options(mesh))
    found = (
        {
            "questions": scorer.questions,
            "contexts": contexts * parts,
            "context_columns": width,
            "question_columns": length,
            "flops": {
                "of_a_question": flops / scorer.questions,
                "formula": formula / scorer.questions,
                "ratio": flops / formula,
            },
        }
        | fit
        | {"advice": _advice(fit, option)}
    )
    if not text:
        return found
    sent, moved = collectives(text, mesh), memory_traffic(text)
    bounds = bound(
        {
            "compute": flops / mesh.size / chip.flops,
            "memory": moved / chip.bandwidth,
            "network": sum(one.total for one in sent) / chip.network,
        }
    )
    bounds["questions_a_second_at_most"] = scorer.questions / bounds["seconds"][bounds["by"]]
    return found | {"step": {"bytes": moved, "sent": by_kind(sent)}, "bound": bounds}


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What `sampling` or `scoring` found, by name and in words, for a table."""
    if "questions" in found:
        asked = f"{found['questions']:,} of {found['question_columns']} tokens"
        yield "questions", f"{asked}, of {found['contexts']:,} contexts of {found['context_columns']:,}"
        flops = found["flops"]
        yield "FLOPs of a question", f"{flops['of_a_question']:.4g}, {flops['ratio']:.3f} × the formula"
    else:
        yield "slots", f"{found['slots']:,} of {found['prompt_columns']} + {found['new_tokens']} tokens"
    if "step" not in found:
        return
    step = found["step"]
    ratio = f", {step['ratio']:.3f} × the formula" if "ratio" in step else ""
    yield "read and written in a step", gib(step["bytes"]) + ratio
    if "kernels" in step:
        yield "kernels launched in a step", f"{step['kernels']:,}"
    for kind, axes in step["sent"].items():
        yield kind, ", ".join(f"{count / 2**20:.2f} MiB over {axis} in a step" for axis, count in axes.items())
    unit, most = next((name, value) for name, value in found["bound"].items() if name.endswith("_at_most"))
    yield bound_row(found, f"at most {most:,.0f} {unit.split('_')[0]} a second")


def _formula(model: DecoderConfig, contexts: int, questions: int, width: int, length: int) -> float:
    """FLOPs of a batch: a token costs 2 for each weight of a matrix and 4·L·H·E for each key before it, and each
    question once more the head."""
    read, said = contexts * width, questions * length
    keys = read * width / 2 + said * (width + length / 2)
    layers = 2 * layer_weights(model) * (read + said) + 4 * model.heads * model.head_size * keys
    return model.layers * layers + 2 * model.width * model.vocab_size * questions


def _model(config: Config, mesh: jax.sharding.Mesh) -> tuple[nnx.GraphDef, nnx.State]:
    """The definition of the model, and the shapes of its parameters with their layout in training."""
    graphdef, params = decoder.shapes(config.model)
    return graphdef, laid_out(params, state_sharding(mesh, params))


def _advice(fit: dict[str, Any], options: str) -> list[str]:
    """What to change where a program does not fit."""
    return [] if fit["fits"] else [f"a smaller {options}, or --mesh.tensor 2, which splits heads too"]

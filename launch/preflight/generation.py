"""All programs of a generation on a described topology, each as large as the settings have it, and what a generation
would take by their bounds: a prediction, and no measurement."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ratchet.bootstrap.config import Config
from ratchet.launch.preflight import inference, training
from ratchet.models.inference import round_up
from ratchet.train.flops import Chip


def generation(
    config: Config, mesh: jax.sharding.Mesh, chip: Chip, dollars: float, say: Callable[[str], None]
) -> dict[str, Any]:
    """What a step of training takes with a whole batch, an example a row, and sampling and scoring with all slots; and
    from their bounds the least that a generation takes, where all chips together cost so many `dollars` an hour. `say`
    is told what is compiled next. Of each program, `seconds` passed while it was compiled and what was made was read,
    and for `processor_seconds` the processor's cores worked at that."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = round_up(-(-config.train.batch // parts), config.train.engine.micro_batches)
    slots = -(-config.simulate.slots // parts)
    programs = {
        "train": lambda: training.training(config, mesh, chip, rows, "--train.batch"),
        "sample": lambda: inference.sampling(config, mesh, chip, slots, "--simulate.slots"),
        "score": lambda: inference.scoring(config, mesh, chip, slots, "--simulate.slots"),
    }
    steps = {}
    for number, (name, program) in enumerate(programs.items(), 1):
        say(f"preflight: {number} of {len(programs)}: {name}")
        began, worked = time.monotonic(), time.process_time()
        made = program()
        took = {"seconds": time.monotonic() - began, "processor_seconds": time.process_time() - worked}
        steps[name] = made | {what: round(seconds) for what, seconds in took.items()}
    fits = all(one["fits"] for one in steps.values())
    return {"fits": fits, "steps": steps, **({"predicted": predicted(config, steps, dollars)} if fits else {})}


def predicted(config: Config, steps: dict[str, dict[str, Any]], dollars: float) -> dict[str, Any]:
    """What generation 1 takes at least, by the bounds of its programs: seconds by kind of work, hours, and dollars
    where a price is given. Answers are taken to be as long as they may be; compiling, reading prompts, checkpoints and
    whatever the host does come on top. For other worlds than documents the number of answers is not known beforehand,
    and training alone is predicted."""
    bounds = {name: one["bound"] for name, one in steps.items()}
    step = bounds["train"]["seconds"][bounds["train"]["by"]]
    tokens, questions = bounds["sample"]["tokens_a_second_at_most"], bounds["score"]["questions_a_second_at_most"]
    answers = _answers(config)
    seconds = {
        "train": config.train.steps * step,
        "sample": answers * config.simulate.new_tokens / tokens,
        "score": answers * inference.QUESTIONS / questions,
    }
    hours = sum(seconds.values()) / 3600
    return {
        "step_seconds": step,
        "trained_tokens_a_second": steps["train"]["tokens_per_step"] / step,
        "sampled_tokens_a_second": tokens,
        "questions_a_second": questions,
        "answers": answers,
        "seconds": seconds,
        "hours": hours,
        "dollars": hours * dollars if dollars else None,
    }


def rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was predicted, by name and in words, for a table."""
    if "predicted" not in found:
        return
    p = found["predicted"]
    yield "a step of training", f"{p['step_seconds']:.2f} s, {p['trained_tokens_a_second']:,.0f} tokens a second"
    yield "sampling", f"{p['sampled_tokens_a_second']:,.0f} tokens a second"
    yield "scoring", f"{p['questions_a_second']:,.0f} questions a second"
    parts = ", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in p["seconds"].items())
    yield "a generation", f"{p['hours']:.2f} h at least: {parts}"
    if p["dollars"] is not None:
        yield "", f"{p['dollars']:,.2f} dollars at least"


def _answers(config: Config) -> int:
    """Answers that generation 1 samples to tasks about documents, those of its evaluation among them."""
    if config.world != "documents":
        return 0
    d = config.documents
    tasks = 1 if d.question else d.per_document
    return tasks * (d.slice * config.simulate.samples + d.fresh * config.evaluate.samples)

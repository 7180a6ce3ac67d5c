"""Compiles a real program for TPUs or GPUs on a machine without any, and says what it would take.

`libtpu` holds the TPU compiler, and JAX's plugin for CUDA that of GPUs; the topology is described, not present. What
the compiler says of memory and of collectives is what the chips would do; FLOPs are counted from the traced program;
times are bounds from data sheets.

training.py     a step of training
inference.py    the sampler's dispatch, and a batch of the review's questions
generation.py   all of these as large as the settings have them, and what a generation takes by their bounds
chips.py        chips that are described, programs compiled for them, and what these take of a chip's memory
gpus.py         GPUs that are described, and what JAX is told of them
collectives.py  what a compiled program moves, between chips and between a chip and its memory
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.run import with_base
from ratchet.launch.options import File, Json, Settings
from ratchet.launch.preflight import generation, gpus, inference, training
from ratchet.launch.preflight.chips import PreflightError, described_chips, gib, without_compilation_cache
from ratchet.models.inference import round_up
from ratchet.train.flops import chip_of
from ratchet.train.sharding import make_mesh

__all__ = ["Preflight", "PreflightError", "preflight", "show"]

_TITLES = {"train": "training step", "sample": "sampling", "score": "scoring", "generation": "a generation"}


@dataclass(frozen=True)
class Preflight:
    """Compiles a program for TPUs or GPUs without one: memory, traffic, bound, advice. Settings are the recipe's by
    default."""

    config: Settings
    topology: str = "v5e:4x4"
    """Chips of a slice, such as v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x2 or tpu7x:2x2x1, whose chips are two devices; or
    GPUs of a host, such as h100:8 or h200:4."""
    slices: int = 1
    """Slices, joined by a slower network along the data axis."""
    step: Literal["train", "sample", "score", "generation"] = "train"
    """What is compiled: a step of training, the sampler's dispatch, a batch of the review's questions, or all of them,
    as large as --train.batch and --simulate.slots have them, from which a generation's time is predicted."""
    rows: int = 2
    """Rows of a batch on each chip, of `--train.columns` tokens, and more where there are more micro-batches; all of
    them are predicted."""
    slots: int = 32
    """Answers that each chip samples at a time, or questions that it is asked."""
    dollars_per_chip_hour: float = 0.0
    """What a chip costs: with it, the cost of a generation is predicted as well."""
    json: Json = False
    file: File = ""


def preflight(
    asked: Preflight, say: Callable[[str], None] = lambda text: None, shaped: Config | None = None
) -> dict[str, Any]:
    """What a program takes on a topology, as `ratchet preflight --json` prints it. All bytes are a chip's. `say` is
    told in a line that the compiler is at work, and how long it took. Settings that are `shaped` have the shape of
    their model already; it is read from the folder of `--base` without them.

    Raises PreflightError without the compiler, for a topology that it does not know, or when the compiler's text cannot
    be read; ValueError when the mesh does not fit.
    """
    config = shaped or with_base(asked.config)
    if min(asked.rows, asked.slices, asked.slots) < 1:
        raise PreflightError(
            f"preflight: rows {asked.rows}, slots {asked.slots}, slices {asked.slices}; all must be at least 1"
        )
    if gpus.is_card(asked.topology) and asked.slices > 1:
        raise PreflightError("preflight: slices are of TPUs; a topology of GPUs is one host, leave --slices at 1")
    by_name = gpus.described_cards if gpus.is_card(asked.topology) else partial(described_chips, slices=asked.slices)
    mesh = make_mesh(config.mesh, by_name(asked.topology))
    kind = mesh.devices.flat[0].device_kind
    chip = chip_of(kind)
    if chip is None:
        raise PreflightError(f"preflight: nothing is known of {kind}; see train/flops.py")
    where = {"program": asked.step, "topology": asked.topology, "slices": asked.slices}
    where |= {"chips": mesh.size, "mesh": dict(mesh.shape)}
    say(f"preflight: compiling {_TITLES[asked.step]} for {mesh.size} devices; a large model takes minutes")
    began = time.monotonic()
    with without_compilation_cache(), gpus.as_if_present(mesh):
        if asked.step == "generation":
            sizes = re.findall(r"\d+", asked.topology.partition(":")[2])
            chips = math.prod(map(int, sizes)) * asked.slices  # of which each may be two devices
            found = generation.generation(config, mesh, chip, chips * asked.dollars_per_chip_hour, say)
        elif asked.step == "train":
            found = training.training(config, mesh, chip, round_up(asked.rows, config.train.engine.micro_batches))
        else:
            of = inference.sampling if asked.step == "sample" else inference.scoring
            found = of(config, mesh, chip, asked.slots)
    say(f"preflight: compiled in {time.monotonic() - began:.0f} s")
    return where | found


def show(found: dict[str, Any], console: Console) -> None:
    """Prints what `preflight` found as a table; of a generation, one for each program and one of the prediction."""
    if found["program"] == "generation":
        where = {name: found[name] for name in ("topology", "slices", "chips", "mesh")}
        for name, one in found["steps"].items():
            show(where | {"program": name} | one, console)
        table = Table("a generation, predicted", "", box=None)
        for name, text in generation.rows(found):
            table.add_row(name, text)
        console.print(table)
        return
    memory, mesh = found["memory"], " × ".join(f"{axis} {size}" for axis, size in found["mesh"].items())
    table = Table(_TITLES[found["program"]], "", box=None)
    table.add_row("chips", f"{found['chips']} of {found['topology']} in {found['slices']} slice(s): {mesh}")
    needed = "more than there is" if memory["needed"] is None else gib(memory["needed"])
    table.add_row("memory of a chip", f"{needed} of {gib(memory['of'])}" + ("" if found["fits"] else ": does not fit"))
    for name, count in memory["consumers"].items():
        table.add_row("", f"{gib(count)} {name}")
    for name, text in (training if found["program"] == "train" else inference).rows(found):
        table.add_row(name, text)
    for line in found["advice"]:
        table.add_row("advice", line)
    console.print(table)

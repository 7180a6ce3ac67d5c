"""The training of an arm: the loop's own, a baseline, or one of a comparison."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flax import nnx

from ratchet.bootstrap.run import Run
from ratchet.bootstrap.worlds.world import content_id
from ratchet.models import programs
from ratchet.train import goodput
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints, remove_checkpoints
from ratchet.train.monitor import describe
from ratchet.train.records import Example
from ratchet.train.trainer import Training, fit

LOGGED, POINTS = 20, 20
"""Every so-manyth step is written down; of an arm with fewer steps, so many that there are POINTS of them at least, or
all."""


def arm_of(
    run: Run,
    generation: int,
    arm: str,
    pools: Sequence[tuple[Sequence[Example], int]],
    steps: int,
    rate_scale: float = 1.0,
    few_shapes: bool = False,
) -> Training:
    """What an arm is trained with: a step takes (examples, count) of each pool, and the learning rate is scaled. With
    `few_shapes` its batches are padded so that most arms of its kind share a program; on accelerators all are.
    """
    c = run.config.train
    rows = run.mesh.shape["data"] * run.mesh.shape["fsdp"] * c.engine.micro_batches
    seed = run.seed("batches", arm, generation)
    with goodput.activity("data_loading"):
        few = few_shapes or programs.few(run.mesh.devices.flat[0])
        batches = Batches(pools, seed=seed, steps=steps, columns=c.columns, row_multiple=rows, few=few)
    optimizer = replace(c.optimizer, rate=c.optimizer.rate * rate_scale)
    data = content_id([e.id for examples, _ in pools for e in examples])
    position = {"arm": arm, "generation": generation, "steps": steps, "data": data}
    profile = str(run.directory / "profile" / _name(position))
    new = tuple(sorted(run.tokenizer.late)) if c.lora else ()
    return Training(run.graphdef, batches, optimizer, run.mesh, c.engine, position, profile, c.lora, new)


def train_arm(run: Run, params: nnx.State, arm: Training) -> nnx.State:
    """Trains an arm from `params`, with progress and, in a run that is written, checkpoints of the arm's own and
    metrics."""
    name, generation, steps = (arm.position[key] for key in ("arm", "generation", "steps"))
    every, reached = min(max(steps // POINTS, 1), LOGGED), None
    with contextlib.ExitStack() as entered:
        advance = entered.enter_context(run.progress.stage(f"gen {generation} train ({name})", steps))
        saved = run.directory / "checkpoints" / _name(arm.position)
        checkpoints = run.metrics and entered.enter_context(Checkpoints(saved, keep_every=arm.engine.save_every))

        def log(step: int, values: dict[str, float]) -> None:
            nonlocal reached
            if reached is None and step:  # an earlier process was here
                advance(step, found=True)
            before = step if reached is None else reached
            left = values.get("seconds_left")
            reached = before if left is None else step + 1  # the first step compiles, so it counts with the second
            advance(reached - before, describe(values), left=left)
            if run.metrics and (step % every == 0 or step == steps - 1):
                run.metrics.log(generation, name, step, values)
                goodput.event(step_count=step + 1, step_start_time=time.time(), generation=generation, arm=name)

        return fit(arm, params, checkpoints, log)


def forget_checkpoints(run: Run, number: int) -> None:
    """Removes the checkpoints of all that generation `number` trained, of which nothing is left to train, unless some
    were asked for by `save_every`."""
    if run.together.first and not run.config.train.engine.save_every:
        for saved in (run.directory / "checkpoints").glob(f"*-{number:03d}"):
            remove_checkpoints(saved)


def _name(position: Mapping[str, Any]) -> str:
    """The name of an arm's files, such as "loop-002"."""
    return f"{position['arm']}-{position['generation']:03d}"

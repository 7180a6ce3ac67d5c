"""The training loop: evaluate → save → next batch → step → log. The order is a contract that resume relies on.

Everything on device is one jitted step; metrics of a step are fetched after the next one is dispatched.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train import optimizer as optimizers
from train.batches import Batches, pack
from train.checkpoint import Checkpoints
from train.loss import LossSums, soft_target_loss
from train.records import Example
from train.sharding import batch_sharding, state_sharding

Metrics = dict[str, float]


class State(NamedTuple):
    """What training changes. `step` is the data position: the next batch to read."""

    params: nnx.State
    optimizer: optax.OptState
    step: jax.Array


@dataclass(frozen=True)
class Training:
    """One training run: what `fit` needs besides its starting weights.

    `position` is saved with every checkpoint and must match on resume.
    """

    graphdef: nnx.GraphDef
    batches: Batches
    optimizer: optimizers.OptimizerConfig
    mesh: jax.sharding.Mesh
    save_every: int
    position: dict[str, Any]


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number."""


def fit(
    run: Training, params: nnx.State, checkpoints: Checkpoints | None, log: Callable[[int, Metrics], None]
) -> nnx.State:
    """Trains from `params`, or from the newest checkpoint, to the last step; returns the weights to keep.

    Raises TrainingDiverged when a loss is not finite, ValueError when a checkpoint belongs to another run.
    """
    tx = optimizers.create(run.optimizer, run.batches.steps)
    state = State(params, tx.init(params), jnp.zeros((), jnp.int32))
    state = jax.tree.map(jnp.copy, jax.device_put(state, state_sharding(run.mesh, state)))
    state = _restore(run, state, checkpoints)
    train_step = make_step(run.graphdef, tx)
    start, pending, began = int(state.step), None, time.monotonic()
    stream = run.batches.iterate(start)
    for step in range(start, run.batches.steps):
        if checkpoints and step > start and step % run.save_every == 0:
            checkpoints.save(step, state, position=run.position)
        batch = jax.device_put(next(stream), batch_sharding(run.mesh))
        state, sums = train_step(state, batch)
        if pending:
            log(*_fetch(*pending, seconds=(time.monotonic() - began) / (step - start)))
        pending = (step, sums)
    if pending:
        log(*_fetch(*pending, seconds=(time.monotonic() - began) / (run.batches.steps - start)))
    return optimizers.final_weights(state.optimizer, state.params)


def make_step(graphdef: nnx.GraphDef, tx: optax.GradientTransformation):
    """The jitted step (state, batch) -> (state, sums and gradient norm)."""

    def objective(params: nnx.State, batch) -> tuple[jax.Array, LossSums]:
        sums = _loss_sums(graphdef, params, batch)
        return sums.loss / jnp.maximum(sums.weight, 1.0), sums

    def train_step(state: State, batch) -> tuple[State, dict[str, jax.Array]]:
        grads, sums = jax.grad(objective, has_aux=True)(state.params, batch)
        updates, opt_state = tx.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        filled = jnp.sum(batch["segments"] > 0)
        metrics = sums._asdict() | {"gradient_norm": optax.tree.norm(grads), "tokens": filled}
        return State(params, opt_state, state.step + 1), metrics

    return jax.jit(train_step, donate_argnums=0)


def _fetch(step: int, sums, *, seconds: float) -> tuple[int, Metrics]:
    host = {name: float(value) for name, value in jax.device_get(sums).items()}
    if not np.isfinite(host["loss"]):
        raise TrainingDiverged(f"train: the loss is {host['loss']} at step {step}; lower --train.optimizer.rate")
    weight = max(host["weight"], 1.0)
    means = {name: host[name] / weight for name in ("loss", "kl", "tail", "hits")}
    return step, means | {
        "gradient_norm": host["gradient_norm"], "tokens": host["tokens"], "trained_tokens": host["weight"],
        "tokens_per_second": host["tokens"] / seconds,
    }  # fmt: skip


def _restore(run: Training, state: State, checkpoints: Checkpoints | None) -> State:
    if checkpoints is None or checkpoints.latest() is None:
        return state
    state, position = checkpoints.restore(state)
    if position != run.position:
        fields = sorted(k for k in {*position, *run.position} if position.get(k) != run.position.get(k))
        raise ValueError(f"train: the checkpoint was made with other {', '.join(fields)}; start a new run directory")
    return state


def mean_loss(graphdef: nnx.GraphDef, params: nnx.State, examples: Sequence[Example], rows: int = 32) -> float:
    """Mean loss in nats per weighted token of examples, one a row."""
    columns = -(-max(len(e.tokens) for e in examples) // 32) * 32
    predictions = -(-max(len(e.ids) for e in examples) // 16) * 16
    keep = max(e.ids.shape[1] for e in examples)
    total = weight = 0.0
    for start in range(0, len(examples), rows):
        chosen = examples[start : start + rows]
        sums = _loss_sums(graphdef, params, pack(chosen, range(len(chosen)), rows, columns, predictions, keep))
        total, weight = total + float(sums.loss), weight + float(sums.weight)
    return total / max(weight, 1.0)


@functools.partial(jax.jit, static_argnames="graphdef")
def _loss_sums(graphdef: nnx.GraphDef, params: nnx.State, batch) -> LossSums:
    model = nnx.merge(graphdef, params)
    hidden_RTD = model(batch["tokens"], batch["positions"], batch["segments"])
    hidden_RMD = jnp.take_along_axis(hidden_RTD, batch["predict"][..., None], axis=1)
    return soft_target_loss(hidden_RMD, model.head_DV(), batch["ids"], batch["probs"], batch["tail"], batch["weights"])

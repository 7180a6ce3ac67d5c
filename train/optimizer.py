"""AdamW, or Muon for matrices and a slower AdamW for the rest; warm-up, then a cosine or a stable rate and a decay, to
a tenth of the peak; and an average of the last weights, when asked for."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from ratchet.models.bounds import bounded

MATRICES = {
    "query": MuonDimensionNumbers((1,), (2, 3)),
    "key": MuonDimensionNumbers((1,), (2, 3)),
    "value": MuonDimensionNumbers((1,), (2, 3)),
    "output": MuonDimensionNumbers((1, 2), (3,)),
    "up": MuonDimensionNumbers((1,), (2,)),
    "gate": MuonDimensionNumbers((1,), (2,)),
    "down": MuonDimensionNumbers((1,), (2,)),
}
"""The matrices of all layers by name, as (input axes, output axes) of a stack; AdamW updates everything else."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated, and at what rate."""

    kind: Literal["adamw", "muon"] = "adamw"
    rate: float = bounded(3e-3, "above 0")
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine down, or the peak until the last fifth and a straight line down (warmup-stable-decay,
    arXiv 2404.06395), from which a run can be gone on with."""
    vector_share: float = bounded(0.3, "at least 0")
    """Rate of the embedding and the vectors, which AdamW updates, relative to `rate`; used by Muon alone."""
    warmup: float = bounded(0.05, "from 0 to 1")
    """Share of the steps spent warming up."""
    weight_decay: float = bounded(0.01, "at least 0")
    clip: float = bounded(1.0, "above 0")
    """Largest global norm of a gradient."""
    average: float = bounded(0.0, "from 0 to 1")
    """Weights kept at the end: their mean over about this share of the steps, the last ones counting most; 0 for the
    last weights alone."""


class Average(NamedTuple):
    """State of `running_average`: steps so far, and the mean of the weights (a pytree like them)."""

    count: jax.Array
    mean: Any


@functools.cache
def create(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """The update rule, which is told the learning `rate` of each step: then runs of any length share a program. It is
    the same object for the same settings, since a program is found again by it."""

    def update(grads, state, params, *, rate, **_):
        return _rule(config, rate).update(grads, state, params)

    return optax.GradientTransformationExtraArgs(_rule(config, 0.0).init, update)


def _rule(config: OptimizerConfig, rate: float | jax.Array) -> optax.GradientTransformation:
    """The update at a rate. Muon: Jordan 2024, scaled to AdamW's update size as in arXiv 2502.16982."""
    if config.kind == "muon":
        rule = muon(
            rate, adam_b2=0.98, adam_learning_rate=rate * config.vector_share,
            weight_decay=config.weight_decay, consistent_rms=0.2,
            muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_matrix, params),
        )
    else:
        is_matrix = lambda path, leaf: _matrix(path, leaf) is not None
        mask = lambda params: jax.tree_util.tree_map_with_path(is_matrix, params)
        rule = optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay, mask=mask)
    averaging = [running_average(config.average)] if config.average else []
    return optax.chain(optax.clip_by_global_norm(config.clip), rule, *averaging)


def running_average(share: float) -> optax.GradientTransformation:
    """Follows the weights that the updates lead to, changing no update; stands last in a chain.

    The window grows with the steps t: mean += (weights − mean)/(1 + share·t), the polynomial decay of arXiv 1212.1824,
    so that a short run forgets its start as well as a long one.
    """

    def init(params):
        return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates, state, params):
        weight = 1.0 / (1.0 + share * state.count)
        mean = jax.tree.map(lambda m, p, u: m + weight * (p + u - m), state.mean, params, updates)
        return updates, Average(state.count + 1, mean)

    return optax.GradientTransformation(init, update)


def final_weights(state: optax.OptState, params: Any) -> Any:
    """The weights that a run keeps: the average of its last ones where the optimizer took one, else those it ended
    with."""
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, Average))
    return next((part.mean for part in parts if isinstance(part, Average)), params)


def schedule(config: OptimizerConfig, steps: int) -> Callable[[int], float]:
    """The learning rate by step: 0 at first, the peak after the warm-up, a tenth of it after the last step. Without a
    warm-up, and where there is one step alone, it begins at the peak."""
    warmup = min(max(1, round(config.warmup * steps)) if config.warmup else 0, steps - 1)
    last = max(steps, warmup + 1)
    begin = warmup if config.schedule == "cosine" else max(warmup, last - max(1, round(last / 5)))

    def rate(step: int) -> float:
        done = min(max(step - begin, 0) / (last - begin), 1.0)
        fallen = (1 - math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else done
        return config.rate * (step / warmup if step < warmup else 1.0) * (1 - 0.9 * fallen)

    return rate


def _matrix(path, _) -> MuonDimensionNumbers | None:
    """The axes of a parameter that is one of MATRICES, by its path in the tree; None for others."""
    return next((MATRICES[name] for key in path if (name := str(getattr(key, "key", ""))) in MATRICES), None)

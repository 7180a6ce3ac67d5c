"""Muon for matrices and a slower AdamW for the rest, or AdamW alone; warm-up and a cosine to a tenth of the peak."""

from dataclasses import dataclass
from typing import Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

MATRICES = {
    "query": MuonDimensionNumbers((1,), (2, 3)),
    "key": MuonDimensionNumbers((1,), (2, 3)),
    "value": MuonDimensionNumbers((1,), (2, 3)),
    "output": MuonDimensionNumbers((1, 2), (3,)),
    "up": MuonDimensionNumbers((1,), (2,)),
    "down": MuonDimensionNumbers((1,), (2,)),
}
"""Layer-stacked matrices by name, as (input axes, output axes); everything else is left to AdamW."""


@dataclass(frozen=True)
class OptimizerConfig:
    kind: Literal["muon", "adamw"] = "muon"
    rate: float = 3e-2
    """Peak learning rate."""
    vector_share: float = 0.3
    """Rate of the embedding and the vectors, which AdamW updates, relative to `rate`; used by Muon alone."""
    warmup: float = 0.05
    """Share of the steps spent warming up."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest global norm of a gradient."""


def create(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The update rule over `steps` steps. Muon: Jordan 2024, scaled to AdamW's update size as in arXiv 2502.16982."""
    rate = schedule(config, steps)
    if config.kind == "muon":
        rule = muon(
            rate, adam_b2=0.98, adam_learning_rate=lambda step: rate(step) * config.vector_share,
            weight_decay=config.weight_decay, consistent_rms=0.2,
            muon_weight_dimension_numbers=lambda params: jax.tree_util.tree_map_with_path(_matrix, params),
        )  # fmt: skip
    else:
        mask = lambda params: jax.tree_util.tree_map_with_path(lambda p, _: _matrix(p, _) is not None, params)
        rule = optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay, mask=mask)
    return optax.chain(optax.clip_by_global_norm(config.clip), rule)


def schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    warmup = max(1, min(round(config.warmup * steps), steps - 1))
    return optax.warmup_cosine_decay_schedule(0.0, config.rate, warmup, max(steps, warmup + 1), config.rate / 10)


def _matrix(path, _leaf) -> MuonDimensionNumbers | None:
    return next((MATRICES[name] for key in path if (name := str(getattr(key, "key", ""))) in MATRICES), None)

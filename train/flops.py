"""What a training step costs: the formula, what a traced program really asks for, and what devices can do.

The formula is the usual one for a decoder: 6 FLOPs per token and weight of a matrix (2 forward, 4 backward), and
6·L·H·E·S for causal attention over S tokens, half of whose square is needed. Norms, rotations and look-ups are left
out.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.extend import core

from ratchet.models.decoder import DecoderConfig


@dataclass(frozen=True)
class Chip:
    """One device as JAX counts them, by its maker's data sheet: a chip, or half of one that is two devices."""

    flops: float  # bfloat16, a second, dense
    memory: float  # bytes
    bandwidth: float  # bytes a second, of its memory
    network: float  # bytes a second, all links to neighbours together


CHIPS = {
    "TPU v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9),
    "TPU v5 lite": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "TPU v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9),
    "TPU v5": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "TPU v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9),
    "TPU v6 lite": Chip(918e12, 32 * 2**30, 1640e9, 448e9),
    "TPU v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9),
    "TPU7x": Chip(2307e12 / 2, 96 * 2**30, 7380e9 / 2, 600e9 / 2),
    "NVIDIA A100": Chip(312e12, 80 * 2**30, 2039e9, 300e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 40 * 2**30, 1555e9, 300e9),
    "NVIDIA A100-PCIE-40GB": Chip(312e12, 40 * 2**30, 1555e9, 300e9),
    "NVIDIA H100": Chip(989e12, 80 * 2**30, 3350e9, 450e9),
    "NVIDIA H100 NVL": Chip(835e12, 94 * 2**30, 3900e9, 300e9),
    "NVIDIA H100 PCIe": Chip(756e12, 80 * 2**30, 2000e9, 300e9),
    "NVIDIA H200": Chip(989e12, 141 * 2**30, 4800e9, 450e9),
    "NVIDIA B200": Chip(2250e12, 180 * 2**30, 8000e9, 900e9),
}
"""Chips by what `jax.Device.device_kind` begins with; of several names that fit, the longest counts."""


def chip_of(kind: str) -> Chip | None:
    """The chip that a `device_kind` names; None for what is not listed, a CPU for one."""
    names = [name for name in CHIPS if kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None


def layer_weights(c: DecoderConfig) -> int:
    """Weights of one layer's matrices."""
    attention = c.width * c.head_size * (2 * c.heads + 2 * c.kv_heads)
    return attention + (3 if c.family.gated else 2) * c.width * c.mlp_width


def step_flops(c: DecoderConfig, tokens: float, predictions: float, columns: int, *, frozen: bool = False) -> float:
    """FLOPs of one step by the formula: `tokens` through the layers, `predictions` of them through the head.

    `columns` is the row length S, packed or not. Weights that are `frozen`, beside which adapters are trained, have no
    gradient of their own; what the adapters cost is left out.
    """
    products = 4 if frozen else 6
    layers = c.layers * (products * layer_weights(c) + 6 * c.heads * c.head_size * columns)
    return tokens * layers + predictions * products * c.width * c.vocab_size


def mfu(flops: float, seconds: float, devices: list[jax.Device]) -> float | None:
    """Share of the devices' peak that `flops` in `seconds` make use of; None where the peak is not known."""
    chip = chip_of(devices[0].device_kind)
    return flops / seconds / (chip.flops * len(devices)) if chip else None


def traced_flops(function, *arguments) -> float:
    """FLOPs of all matrix products that `function(*arguments)` traces to, loops counted as often as they run.

    XLA's own cost analysis counts the body of a loop once. Of a `cond` the dearest branch counts; a `while` loop, whose
    length is not known, counts once.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
            continue
        inner = [_flops(sub) for sub in _inner(equation)]
        if equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * _times(equation)
    return total


def _product(equation) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _times(equation) -> int:
    """How often an equation's own jaxpr runs: the length of a scan, the parts that a shard_map splits by hand."""
    if equation.primitive.name == "shard_map":
        return math.prod(equation.params["mesh"].shape[axis] for axis in equation.params["newly_manual_axes"])
    return equation.params.get("length", 1) if equation.primitive.name == "scan" else 1


def _inner(equation) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, core.ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, core.Jaxpr):
                yield one

"""Slices of TPUs by name: what GKE, Cloud TPU and xpk call the same chips, and how many machines hold them."""

import math
import re
from dataclasses import dataclass

from ratchet.launch.lines import UserError


@dataclass(frozen=True)
class Kind:
    """A generation of TPUs. `label` is GKE's name of it, `cloud` that of Cloud TPU and xpk, whose number counts `cores`
    to a chip, and `runtime` the software of its virtual machines; "" where their maker names none."""

    label: str
    cloud: str
    cores: int
    runtime: str
    devices: int = 1
    """JAX's devices to a chip."""
    flat: bool = False
    """Whether its chips are wired in two dimensions, in one of the few shapes of FLAT."""


KINDS = {
    "v4": Kind("tpu-v4-podslice", "v4", 2, "tpu-ubuntu2204-base"),
    "v5e": Kind("tpu-v5-lite-podslice", "v5litepod", 1, "v2-alpha-tpuv5-lite", flat=True),
    "v5p": Kind("tpu-v5p-slice", "v5p", 2, "v2-alpha-tpuv5"),
    "v6e": Kind("tpu-v6e-slice", "v6e", 1, "v2-alpha-tpuv6e", flat=True),
    "tpu7x": Kind("tpu7x", "tpu7x", 2, "", devices=2),
}
"""By the name that `ratchet preflight --topology` and libtpu have for it."""
FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
"""Shapes of slices whose chips are wired in two dimensions."""
CHIPS_OF_A_HOST = 4
"""Chips of each machine of a slice."""


@dataclass(frozen=True)
class Slice:
    """Chips that a fast network joins, in machines that are had together."""

    kind: Kind
    shape: str
    chips: int

    @property
    def hosts(self) -> int:
        """Machines, each of which runs one process."""
        return self.chips // CHIPS_OF_A_HOST

    @property
    def accelerator(self) -> str:
        """Its type at Cloud TPU and xpk, such as v5litepod-16, or v5p-8 for four chips of two cores."""
        return f"{self.kind.cloud}-{self.chips * self.kind.cores}"


def slice_of(topology: str) -> Slice:
    """The slice of a topology such as "v5e:4x4" or "v5p:2x2x1".

    Raises UserError for a kind of TPU or a shape that cannot be had.
    """
    name, _, shape = topology.partition(":")
    if name not in KINDS:
        raise UserError(f"submit: no TPU is called {name!r}; give --topology {' or '.join(KINDS)}, as in v5e:4x4")
    kind = KINDS[name]
    if kind.flat and shape not in FLAT:
        raise UserError(f"submit: {name} has no slice of {shape or 'no shape'}; there are {', '.join(FLAT)}")
    sizes = [int(size) for size in shape.split("x")] if re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){2}", shape) else []
    small = shape in ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
    if not kind.flat and not small and not (sizes == sorted(sizes) and sizes and all(size % 4 == 0 for size in sizes)):
        raise UserError(
            f"submit: {name} has no slice of {shape or 'no shape'}; there are 2x2x1, 2x2x2, 2x2x4, 2x4x4, and three "
            "multiples of 4, smallest first, such as 4x4x8"
        )
    return Slice(kind, shape, math.prod(int(size) for size in shape.split("x")))

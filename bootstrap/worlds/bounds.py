"""Bounds of settings, kept beside each field of a frozen dataclass."""

import dataclasses
from collections.abc import Callable
from typing import Any

BOUNDS: dict[str, Callable[[float], bool]] = {
    "at least 0": lambda v: v >= 0,
    "at least 1": lambda v: v >= 1,
    "at least 2": lambda v: v >= 2,
    "above 0": lambda v: v > 0,
    "from 0 to 1": lambda v: 0 <= v <= 1,
    "above 0 and at most 1": lambda v: 0 < v <= 1,
    "at least 1, or -1 for all that is left": lambda v: v >= 1 or v == -1,
}
"""What a number may have to be, in words, and whether it is so."""


def bounded(default: Any, bound: str) -> Any:
    """A dataclass field with this default whose number, or each number of a tuple, must be within a bound of BOUNDS.

    `slice: int = bounded(54, "at least 1")`
    """
    return dataclasses.field(default=default, metadata={"bound": bound})


def check(config: Any, prefix: str = "") -> None:
    """Raises ValueError for the first field of a dataclass, or of one within it, that is out of its bound.

    `prefix` stands before the names: "lessons." gives "config: lessons.slice is 0; it must be at least 1".
    """
    for f in dataclasses.fields(config):
        value, bound = getattr(config, f.name), f.metadata.get("bound")
        if dataclasses.is_dataclass(value):
            check(value, f"{prefix}{f.name}.")
        elif bound and not all(map(BOUNDS[bound], value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"config: {prefix}{f.name} is {value}; it must be {bound}")

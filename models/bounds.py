"""Bounds of a config's numbers, said beside each field and checked all at once."""

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
"""What a number may be, by the words in which its field and an error say so."""
LARGEST = 2**31 - 1
"""What a whole number may be, and its negative: arrays on devices count in 32 bits."""


def bounded(default: Any, text: str) -> Any:
    """A dataclass field with one of BOUNDS: `rate: float = bounded(0.02, "above 0")`."""
    return dataclasses.field(default=default, metadata={"bound": text})


def check(config: Any, prefix: str = "") -> None:
    """Raises ValueError for the first number of a dataclass, or of one inside it, that is out of its field's bound.

    Of a tuple, each number is held to the bound. No whole number may be beyond LARGEST either way. With the prefix
    "train.", an error names the field "train.batch".
    """
    for field in dataclasses.fields(config):
        value, name, text = getattr(config, field.name), f"{prefix}{field.name}", field.metadata.get("bound")
        numbers = value if isinstance(value, tuple) else (value,)
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
        elif text and not all(map(BOUNDS[text], numbers)):
            raise ValueError(f"config: {name} is {value}; it must be {text}")
        elif any(isinstance(number, int) and abs(number) > LARGEST for number in numbers):
            within = f"{text}, and at most {LARGEST}" if text else f"from -{LARGEST} to {LARGEST}"
            raise ValueError(f"config: {name} is {value}; it must be {within}")

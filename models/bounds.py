"""What a number in a config must be, kept beside its field."""

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
"""Every bound by its text, as it stands in an error."""


def bounded(default: Any, text: str) -> Any:
    """A dataclass field with a default and the bound that its number, or each number of its tuple, must keep."""
    return dataclasses.field(default=default, metadata={"bound": text})


def check(config: Any, prefix: str = "") -> None:
    """Raises ValueError for the first number of a config, or of a config within it, that is out of its bound."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            check(value, f"{prefix}{f.name}.")
        elif text := f.metadata.get("bound"):
            if not all(map(BOUNDS[text], value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"config: {prefix}{f.name} is {value}; it must be {text}")

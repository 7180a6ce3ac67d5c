"""The files of a run's directory, any of which may be missing."""

import json
from typing import Any

from etils import epath


class RunFileError(ValueError):
    """A file of the run directory that cannot be read."""


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFileError(f"{path}: not JSON ({error}); delete it and run `ratchet resume`") from None
    if not isinstance(value, dict):
        raise RunFileError(f"{path}: holds a {type(value).__name__}, not an object; delete it and run `ratchet resume`")
    return value


def generation_directories(directory: epath.Path) -> dict[int, epath.Path]:
    """The directories gen-000, gen-001, ... by number, in order."""
    found = {p.name.removeprefix("gen-"): p for p in directory.iterdir() if p.name.startswith("gen-")}
    numbers = sorted((number for number in found if number.isdigit()), key=int)
    return {int(number): found[number] for number in numbers}

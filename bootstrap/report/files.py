"""The files of a run's directory, any of which may be missing."""

import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from ratchet.train.commits import Commits, strange_units
from ratchet.train.files import object_in


class RunFiles:
    """What a run has committed, as people are shown it. Files that are not what was committed are `altered`, a line
    about each, and nothing of them is shown; others are `missing`, which a resume makes again."""

    def __init__(self, directory: epath.Path):
        self._commits = Commits(directory)
        found = self._commits.altered()
        self.altered = [self._commits.line_about(name) for name in found]
        self.missing = [self._commits.line_about(name) for name in self._commits.missing()]
        self._left_out = {directory / name for name in found}

    def object(self, path: epath.Path) -> dict[str, Any]:
        """The object in a file; {} when there is no such file."""
        return {} if path in self._left_out else object_in(path)

    def check(self, generation: epath.Path) -> None:
        """Adds a line about each unit of a finished generation that is gone, or not the one that it ended with."""
        ended = self.object(generation / "DONE.json").get("units", {})
        strange = [path for stage, units in ended.items() for path in strange_units(generation / stage, units)]
        for path in strange:
            line = self._commits.line_about(f"{generation.name}/{path.parent.name}/{path.name}")
            (self.altered if path.exists() else self.missing).append(line)


def lines_in(path: epath.Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines; those that a kill has torn, or something else has damaged, are left out."""
    for line in path.read_bytes().splitlines() if path.exists() and not path.is_dir() else ():
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def generation_directories(directory: epath.Path) -> dict[int, epath.Path]:
    """The directories gen-000, gen-001, ... by number, in order."""
    found = {p.name.removeprefix("gen-"): p for p in directory.iterdir() if p.name.startswith("gen-")}
    numbers = sorted((number for number in found if number.isdigit()), key=int)
    return {int(number): found[number] for number in numbers}

"""What is done. A stage asks here before it works: committed units are read back, everything else is made again.

A unit is committed by its small JSON file, which appears by rename after the records it describes: a torn unit has
none and is redone; a finished one is never redone.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etils import epath

from ratchet.train.files import read_unit, whole, write_unit


@dataclass(frozen=True)
class Stage:
    """The units of one stage of one generation."""

    directory: epath.Path

    def unit(self, index: int, inputs: str, make: Callable[[], list[bytes]]) -> list[bytes]:
        """The payloads of a unit: read when it was committed from the same inputs, made and committed otherwise."""
        records = self.directory / f"unit-{index:05d}.array_record"
        commit = self.directory / f"unit-{index:05d}.json"
        if self.has(index, inputs):
            return read_unit(records, self.sha256(index))
        began = time.monotonic()
        payloads = make()
        self.directory.mkdir(parents=True, exist_ok=True)
        sha256 = write_unit(records, payloads)
        entry = {"sha256": sha256, "count": len(payloads), "inputs": inputs}
        write_json(commit, entry | {"seconds": round(time.monotonic() - began, 3)})
        return payloads

    def has(self, index: int, inputs: str) -> bool:
        """Whether a unit was committed from these inputs."""
        name = self.directory / f"unit-{index:05d}"
        return name.with_suffix(".array_record").exists() and _entry(name.with_suffix(".json")).get("inputs") == inputs

    def sha256(self, index: int) -> str:
        """The hash of a committed unit's content, from which later units are made."""
        return _entry(self.directory / f"unit-{index:05d}.json")["sha256"]

    def committed(self) -> list[bytes]:
        """Every committed payload, unit after unit."""
        commits = sorted(self.directory.glob("unit-*.json")) if self.directory.exists() else []
        whole = [(commit, entry) for commit in commits if (entry := _entry(commit))]
        return [
            payload
            for commit, entry in whole
            for payload in read_unit(commit.with_suffix(".array_record"), entry["sha256"])
        ]


def _entry(commit: epath.Path) -> dict[str, Any]:
    """What a commit says; {} when it is missing or torn, for then the unit is not committed."""
    try:
        return json.loads(commit.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def once(path: epath.Path, make: Callable[[], Any]) -> Any:
    """The JSON at `path`, made and written first when it is missing."""
    if not path.exists():
        write_json(path, make())
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); delete it and run `ratchet resume`") from None


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON so that a reader sees all of it or nothing, whatever happens to the machine."""
    with whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n")

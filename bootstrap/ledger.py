"""What is done of a stage. It asks here before it works: committed units are read back, all others are made again.

A unit is committed by its small JSON file, which appears whole after the records it describes: a torn unit has none and
is redone; a finished one is never redone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from etils import epath

from ratchet.train.buckets import read
from ratchet.train.commits import sha256
from ratchet.train.files import RecordError, object_in, read_unit, whole, write_unit


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
        payloads = make()
        made = {"sha256": write_unit(records, payloads), "inputs": inputs}
        with whole(commit) as fresh:
            fresh.write_text(json.dumps(made, indent=1) + "\n")
        return payloads

    def has(self, index: int, inputs: str) -> bool:
        """Whether a unit was committed from these inputs."""
        name = self.directory / f"unit-{index:05d}"
        return name.with_suffix(".array_record").exists() and _entry(name.with_suffix(".json")).get("inputs") == inputs

    def sha256(self, index: int) -> str:
        """The hash of a committed unit's content, from which later units are made."""
        return _entry(self.directory / f"unit-{index:05d}.json")["sha256"]

    def hashes(self) -> list[str]:
        """The hashes of the commits of all units that are there, in order."""
        whole = [commit for commit in self._commits() if commit.with_suffix(".array_record").exists()]
        return [sha256(read(commit)) for commit in whole]

    def committed(self) -> list[bytes]:
        """Every committed payload, unit after unit. Raises RecordError for a commit that cannot be read."""
        found = []
        for commit in self._commits():
            if not (entry := _entry(commit)):
                raise RecordError(f"{commit}: it commits no unit; resume the run to make it again")
            found += read_unit(commit.with_suffix(".array_record"), entry["sha256"])
        return found

    def _commits(self) -> list[epath.Path]:
        return sorted(self.directory.glob("unit-*.json")) if self.directory.exists() else []


def _entry(commit: epath.Path) -> dict[str, str]:
    """What a commit says; {} when it is missing or damaged, for then the unit is not committed."""
    entry = object_in(commit)
    return entry if all(isinstance(entry.get(key), str) for key in ("sha256", "inputs")) else {}

"""What is done of a stage. It asks here before it works: committed units are read back, all others are made again.

A unit is committed by its small JSON file, which appears whole after the records it describes: a torn unit has none and
is redone; a finished one is never redone.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from etils import epath

from ratchet.train import goodput
from ratchet.train.commits import commits_in, strange_units, units_in
from ratchet.train.files import RecordError, content_hash, object_in, read_unit, whole, write_unit
from ratchet.train.together import ALONE, Together

STAGES = ("propose", "simulate", "review", "targets", "wrongthink", "corrections")
"""Stages that commit units, in order."""


def same_units(directory: epath.Path, before: Mapping[str, Any], units: Mapping[str, Any]) -> None:
    """Raises ValueError when the `units` of a stage of the generation in `directory` are not those of `before`, from
    which it went on."""
    if other := [stage for stage in units if units[stage] != before[stage]]:
        raise ValueError(
            f"{directory / other[0]}: made again, its units are not those that {directory.name} was trained on; "
            "put those back, or start a new run"
        )


def check_units(generation: epath.Path) -> None:
    """Raises RecordError, which names the file, when a finished generation lacks a unit that it ended with."""
    ended = object_in(generation / "DONE.json").get("units")
    for stage, units in ended.items() if isinstance(ended, dict) else ():
        if gone := [path for path in strange_units(generation / stage, units) if not path.exists()]:
            raise RecordError(f"{gone[0]}: the file is missing; resume the run to make it again")


@dataclass(frozen=True)
class Stage:
    """The units of one stage of one generation. Of processes that work on it `together`, the first one decides what is
    there, and writes."""

    directory: epath.Path
    together: Together = ALONE

    def unit(self, index: int, inputs: str, make: Callable[[], list[bytes]]) -> list[bytes]:
        """The payloads of a unit: read when it was committed from the same inputs, made and committed otherwise.

        Raises RecordError when processes that work together have made different ones.
        """
        if self.has(index, inputs):
            return read_unit(self._records(index), self.sha256(index))
        payloads = make()
        written = self.together.decided(f"unit {index} of {self._name}", lambda: self._write(index, inputs, payloads))
        if not self.together.first and content_hash(payloads) != written:
            raise RecordError(
                f"{self.directory}: process {self.together.number} has made another unit {index} than process 0; run "
                "the same version with the same settings everywhere"
            )
        return payloads

    def _write(self, index: int, inputs: str, payloads: list[bytes]) -> str:
        """Commits a unit; returns the hash of its content."""
        digest = write_unit(self._records(index), payloads)
        with whole(self._records(index).with_suffix(".json")) as fresh:
            fresh.write_text(json.dumps({"sha256": digest, "inputs": inputs}, indent=1) + "\n")
        goodput.kept()
        return digest

    def _records(self, index: int) -> epath.Path:
        return self.directory / f"unit-{index:05d}.array_record"

    @property
    def _name(self) -> str:
        return f"{self.directory.parent.name}/{self.directory.name}"

    def has(self, index: int, inputs: str) -> bool:
        """Whether a unit was committed from these inputs."""
        records = self._records(index)
        there = lambda: records.exists() and _entry(records.with_suffix(".json")).get("inputs") == inputs
        return self.together.decided(f"whether unit {index} of {self._name} is there", there)

    def sha256(self, index: int) -> str:
        """The hash of a committed unit's content, from which later units are made."""
        return _entry(self._records(index).with_suffix(".json"))["sha256"]

    def committed(self) -> list[bytes]:
        """Every committed payload, unit after unit. Raises RecordError for a commit that cannot be read."""
        found = []
        for commit in commits_in(self.directory):
            if not (entry := _entry(commit)):
                raise RecordError(f"{commit}: it commits no unit; resume the run to make it again")
            found += read_unit(commit.with_suffix(".array_record"), entry["sha256"])
        return found


def units_of(generation: epath.Path) -> dict[str, list[str]]:
    """By stage, the hashes of the units in a generation's directory."""
    return {stage: units_in(generation / stage) for stage in STAGES}


def _entry(commit: epath.Path) -> dict[str, str]:
    """What a commit says; {} when it is missing or damaged, for then the unit is not committed."""
    entry = object_in(commit)
    return entry if all(isinstance(entry.get(key), str) for key in ("sha256", "inputs")) else {}

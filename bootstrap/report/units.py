"""The units that stages have committed, as they lie in a run's directory while it may still go on."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from etils import epath

from ratchet.train.commits import commits_in
from ratchet.train.files import RecordError, object_in, read_unit


class Unit(NamedTuple):
    """A committed unit: its file of records, and the hash of their content."""

    path: epath.Path
    sha256: str

    def records(self) -> list[dict[str, Any]] | None:
        """The objects in it; None when they cannot be read, or are not what was committed."""
        try:
            found = [json.loads(payload) for payload in read_unit(self.path, self.sha256)]
        except (RecordError, ValueError):
            return None
        return found if all(isinstance(one, dict) for one in found) else None


def units(stage: epath.Path) -> list[Unit]:
    """The units in the directory of a stage, in order."""
    hashes = {commit: object_in(commit).get("sha256") for commit in commits_in(stage)}
    return [Unit(c.with_suffix(".array_record"), said) for c, said in hashes.items() if isinstance(said, str)]


class Verdict(NamedTuple):
    """What one criterion said of a transcript, and why not."""

    passed: bool
    score: float | None
    reason: str


def verdicts_in(review: Mapping[str, Any]) -> dict[str, Verdict]:
    """The verdicts of a review, by criterion."""
    found = review.get("verdicts") or {}
    return {name: Verdict(bool(v.get("passed")), v.get("score"), v.get("reason") or "") for name, v in found.items()}


def is_advisory(criterion: Any) -> bool:
    """Whether a criterion, as a calibration or a verdict tells of it, was measured and decided nothing: one that is
    advisory, and one that has not yet earned a say."""
    return isinstance(criterion, Mapping) and criterion.get("standing") in ("advisory", "earned")


def advisory(criteria: Any) -> list[str]:
    """The names of such ones among a calibration's criteria."""
    return [name for name, c in (criteria.items() if isinstance(criteria, Mapping) else ()) if is_advisory(c)]


def advisory_in(generation: epath.Path) -> list[str]:
    """The same, of a generation by its directory."""
    return advisory(object_in(generation / "calibration.json").get("criteria"))

"""Whole runs on disk or in a bucket, for tests: what counts of one, and one as it was at an earlier time."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from etils import epath

from ratchet.bootstrap.config import from_json
from ratchet.models import decoder
from ratchet.train.checkpoint import load_weights
from ratchet.train.commits import Commits
from ratchet.train.files import read_unit

LEFT_OUT = {
    "model": "Orbax gives files names and times of its own; the weights in them count, bit for bit",
    "checkpoints": "they lie at other steps after a kill; the weights that come of them count",
    "stages.json": "seconds",
    "goodput.jsonl": "the same, an event a line",
    "forecast.json": "seconds that were expected",
    "metrics.jsonl": "times and speeds; a step before a kill may stand there twice",
    "tensorboard": "the same, a file for each start",
    "profile": "traces with times",
    "report": "a page of all this",
    "lock": "what a process holds while it works on the run",
    "working.json": "which process that is, and what it does",
    "working": "the same in a bucket, by turns",
}
"""Files and directories of a run that say how it went rather than what came of it, and why."""


def arrays(tree) -> dict[str, np.ndarray]:
    """Leaves of a pytree by path, on the host."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def contents(directory) -> dict[str, str]:
    """What counts of a run, as hashes by path: figures, units, datasets, and weights bit for bit."""
    directory = epath.Path(directory)
    config = from_json((directory / "config.json").read_text())
    like = decoder.create(config.model, 0)[1]
    found = {path.relative_to(directory).as_posix(): _hash(path) for path in _that_count(directory)}
    for place in directory.glob("*/model"):
        leaves = arrays(load_weights(place, like))
        whole = b"".join(name.encode() + leaf.tobytes() for name, leaf in sorted(leaves.items()))
        found[str(place.relative_to(directory))] = hashlib.sha256(whole).hexdigest()
    return found


def _that_count(directory: epath.Path) -> Iterator[epath.Path]:
    for path in directory.iterdir():
        if path.name not in LEFT_OUT:
            yield from _that_count(path) if path.is_dir() else [path]


def _hash(file: epath.Path) -> str:
    return hashlib.sha256(_content(file)).hexdigest()


def _content(file: epath.Path) -> bytes:
    if file.suffix == ".json":
        return json.dumps(json.loads(file.read_text()), sort_keys=True).encode()
    if file.suffix == ".array_record":  # a unit; the shard of a dataset has another suffix and counts byte for byte
        return json.dumps([payload.hex() for payload in read_unit(file)]).encode()
    return file.read_bytes()


def different(a, b) -> list[str]:
    """The paths at which two runs differ in what counts."""
    first, second = contents(a), contents(b)
    return sorted(path for path in first.keys() | second.keys() if first.get(path) != second.get(path))


def as_it_was(whole, directory, generation: int) -> epath.Path:
    """A copy of a whole run as it was when this generation had just ended."""

    def later(place: str, names: list[str]) -> set[str]:
        number = lambda name: name.removeprefix("gen-").rpartition("-")[2]
        numbered = {n for n in names if n[:-3].endswith("-") and number(n).isdigit() and int(number(n)) > generation}
        of_the_whole = ("report", "plan.json", "ended.json") if Path(place) == Path(whole) else ()
        return numbered | {n for n in names if n in of_the_whole or n.startswith("imitation")}

    shutil.copytree(whole, directory, ignore=later)
    directory = epath.Path(directory)
    for place in ("imitation", *(p.name for p in epath.Path(whole).glob("gen-*"))):
        if not (directory / place).exists():
            Commits(directory).forget(directory / place)
    return directory

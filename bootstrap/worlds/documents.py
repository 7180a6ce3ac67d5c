"""The user's own documents as a world: slices of a folder's or dataset's documents, a task for each."""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet.bootstrap.worlds.bounds import bounded
from ratchet.bootstrap.worlds.world import Document, Material, Task, World, content_id

RUBRIC = Path(__file__).with_name("documents.yaml")


@dataclass(frozen=True)
class DocumentsConfig:
    """Source material of a user's own."""

    path: str = ""
    """A TFDS dataset directory (with `id` and `text` features) or a folder of .txt files, in UTF-8."""
    slice: int = bounded(50, "at least 1")
    """Documents that each generation reads for the first time."""
    fresh: int = bounded(20, "at least 1")
    """Documents that no generation reads, on which the simulator is measured."""
    question: str = "What does {title} say?"
    """What is asked about each document; {title} is its id in words."""


def create(config: DocumentsConfig, seed: int, generations: int, read: Callable[[str], Sequence[Document]]) -> World:
    """Makes a world of what `read` finds at the path; the order of its documents is drawn from the seed.

    Raises ValueError when there are too few documents for the generations asked for.
    """
    if not config.path:
        raise ValueError("documents: there is no folder to read; set --documents.path")
    found = sorted(read(config.path), key=lambda d: d.id)
    random.Random(f"documents {seed}").shuffle(found)
    needed = config.fresh + config.slice * (generations - 1) + 1
    if len(found) < needed:
        raise ValueError(
            f"documents: {config.path} holds {len(found)} documents, {generations} generations need {needed}; lower "
            "--generations, --documents.slice or --documents.fresh"
        )
    fresh, rest = found[: config.fresh], found[config.fresh :]
    parts = [rest[i * config.slice : (i + 1) * config.slice] for i in range(generations)]
    return World(
        name="documents",
        slices=tuple(_material(part, config.question) for part in parts),
        rubric=RUBRIC.read_text(),
        fresh=_material(fresh, config.question),
    )


def _material(documents: Sequence[Document], question: str) -> Material:
    return Material(tuple(documents), tuple(_task(d, question) for d in documents))


def _task(document: Document, question: str) -> Task:
    title = re.sub(r"[_\W]+", " ", document.id).strip()
    messages = ({"role": "user", "content": question.format(title=title)},)
    return Task(content_id(document.id, messages), (document.id,), messages)

"""A turn of the loop: who writes and reviews in it, and what is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from etils import epath
from flax import nnx

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.rollouts.writing import Rollouts, open_rollouts
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.teacher.afar import Afar, Scribe
from ratchet.bootstrap.worlds.world import Document, Task, content_id


@dataclass(frozen=True)
class Generation:
    """A turn of the loop: its number, the incumbent that writes and reviews it, and the tasks that it reads."""

    run: Run
    number: int
    incumbent: int
    """The generation whose weights write this one."""
    params: nnx.State
    base: nnx.State
    """The seed model's weights, which had not learned what the incumbent knows."""
    tasks: tuple[Task, ...]
    read: dict[str, Task] = field(default_factory=dict)
    """Every task about the documents read so far, by id."""

    @property
    def directory(self) -> epath.Path:
        return self.run.generation(self.number)

    @cached_property
    def writer(self) -> Writer:
        return self.run.writer(self.params)

    @cached_property
    def scribe(self) -> Scribe:
        return Scribe(self.writer, self.run.scorer, self.run.config.targets.kind != "one_hot")

    @cached_property
    def teacher(self) -> Afar | None:
        """The teacher by address, where it writes this generation's transcripts."""
        r, c = self.run, self.run.config.teacher
        return Afar(r.teacher, self.scribe, self.index, r.together) if c.url and self.number <= c.generations else None

    @cached_property
    def rollouts(self) -> Rollouts | None:
        """Servers with the incumbent's weights, where there are some."""
        r = self.run
        texts = [d.text for d in r.material(1).documents] or [t.question for t in r.tasks(1)]
        return open_rollouts(r.directory, r.config, self.incumbent, self.scribe, texts, r.progress.line, r.together)

    def author(self, captured: bool = True) -> Writer:
        """The incumbent as it writes, by servers where there are some: see `Rollouts.writer`."""
        return self.rollouts.writer(captured) if self.rollouts else self.writer

    @cached_property
    def index(self) -> Index:
        return Index(self.run.passages(self.number))

    @cached_property
    def passages(self) -> dict[str, Document]:
        """The passages of all documents read so far, by id."""
        return {p.id: p for p in self.index.passages}

    def parts(self, tasks: Sequence[Task]) -> list[tuple[Task, ...]]:
        """Tasks in the units that are committed together."""
        size = self.run.config.simulate.unit_tasks
        return [tuple(tasks[i : i + size]) for i in range(0, len(tasks), size)]

    def inputs(self, stage: str, unit: int, *upstream: str) -> str:
        """Fingerprint of what a unit is made from: the ids of its tasks, or the hashes of the units before it."""
        return content_id(stage, unit, self.number, self.incumbent, *upstream)

    def seed(self, *parts) -> int:
        """A 31-bit seed for one purpose in this generation."""
        return self.run.seed(self.number, *parts)

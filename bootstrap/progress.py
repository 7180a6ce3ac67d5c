"""How a run tells what it does: progress for people, metrics for files. The loop knows only these two."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from etils import epath

from ratchet.models.extras import installing
from ratchet.train import goodput, memory
from ratchet.train.buckets import UPLOADED, Outbox
from ratchet.train.files import numbers_in, whole
from ratchet.train.holder import Holder

METRICS = "metrics.jsonl"


class Advance(Protocol):
    """Takes how many more items of a stage are done, and short parts about the newest, what matters most first.

    Items that were `found` took this process no time. `left` are the seconds to the stage's end, where they are known
    better than from the time of the items so far.
    """

    def __call__(
        self, count: int, about: Sequence[str] = (), *, found: bool = False, left: float | None = None
    ) -> None: ...


class Reached:
    """Takes how many items of a stage are done in all, and tells its `advance` how many are new.

    The total may fall, as when an answer that looked done calls a tool and goes on: then nothing is new until it is
    higher than ever before.
    """

    def __init__(self, advance: Callable[[int], None]):
        self._advance, self._given = advance, 0

    def __call__(self, done: int) -> None:
        if done > self._given:
            self._advance(done - self._given)
            self._given = done


def counted(reached: Callable[[int], None], before: int = 0) -> Callable[[int], None]:
    """A function that takes how many more items are done, and tells `reached` how many these are in all, with those
    done `before`."""
    done = before

    def advance(more: int) -> None:
        nonlocal done
        done += more
        reached(done)

    return advance


class Progress(Protocol):
    """Shows work being done: stages, each of so many items, and lines between them."""

    def stage(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]: ...

    def line(self, text: str) -> None: ...


class Silent:
    """No output, for tests and for evaluation inside other programs."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        yield lambda count, about=(), *, found=False, left=None: None

    def line(self, text: str) -> None: ...


@dataclass
class Tally:
    """How far a stage is: items done, those of them that were found done, and the seconds to its end, where it is known
    how long an item takes. Seconds that stages within it took are `aside`: its own items took none of them."""

    total: int
    done: int = 0
    found: int = 0
    left: float | None = None
    aside: float = 0.0
    began: float = field(default_factory=lambda: time.monotonic())
    newest: float = field(default_factory=lambda: time.monotonic())

    @property
    def waited(self) -> float:
        """Seconds since items were last done."""
        return time.monotonic() - self.newest

    @property
    def spent(self) -> float:
        """Seconds since the stage began."""
        return time.monotonic() - self.began

    @property
    def own(self) -> float:
        """Those of them in which its own items were made."""
        return self.spent - self.aside

    @property
    def made(self) -> int:
        """Items done since the stage began."""
        return self.done - self.found

    def add(self, count: int, found: bool, left: float | None) -> None:
        """Counts items as `Advance` takes them."""
        self.done += count
        self.found += count * found
        self.newest = time.monotonic()
        rest = max(self.total - self.done, 0)
        self.left = self.own * rest / self.made if left is None and self.made > 0 else left


class Tallies:
    """The tallies of the stages under way, the innermost last: a stage may train a model of its own."""

    def __init__(self):
        self._open: list[Tally] = []

    @contextlib.contextmanager
    def stage(self, total: int) -> Iterator[Tally]:
        """A tally of a stage, whose time is no part of the pace of the stage around it."""
        tally = Tally(total)
        self._open.append(tally)
        try:
            yield tally
        finally:
            self._open.pop()
            for around in self._open[-1:]:
                around.aside += tally.spent
                around.newest = time.monotonic()


@dataclass(frozen=True)
class Noted:
    """Shows work as `shown` does, and has the process that holds the run say in its record what it is. Whenever
    something was done, `beat` hears where that is. Work of a run that another process has taken over meanwhile raises
    Busy. What was freed before a stage is given back to the system: the stage needs arrays of other sizes."""

    shown: Progress
    holder: Holder
    beat: Callable[[str], None] = lambda at: None
    tallies: Tallies = field(default_factory=Tallies)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Advance]:
        around = self.holder.doing
        doing = {"title": title, "since": time.time(), "done": 0, "total": total, "left": None, "about": []}
        self.holder.doing = doing
        self.beat(f"at the beginning of {title}")
        memory.give_back()
        with self.shown.stage(title, total) as show, self.tallies.stage(total) as tally:

            def advance(
                count: int, about: Sequence[str] = (), *, found: bool = False, left: float | None = None
            ) -> None:
                self.holder.check()
                tally.add(count, found, left)
                self.beat(f"in {title}, after {tally.done} of {total}")
                doing.update(done=tally.done, left=tally.left, about=list(about))
                show(count, about, found=found, left=left)

            yield advance
        self.holder.doing = around

    def line(self, text: str) -> None:
        self.shown.line(text)


class Metrics:
    """Appends every logged step to `metrics.jsonl` and to TensorBoard, and sends it to a `project` of Weights & Biases,
    with the run's `settings`, where one is named. A resumed run may log a step twice, alike.

    Of processes that run together, only one is the `writer`. Into a bucket files go every UPLOADED seconds, and a kill
    may take the newest lines. Raises ValueError when the library of Weights & Biases is missing, or it does not let the
    run in.
    """

    def __init__(
        self, directory: epath.Path, writer: bool = True, project: str = "", settings: Mapping[str, Any] | None = None
    ):
        self._writer = writer
        if writer:
            self._sent = _sending(directory, project, settings) if project else None
            self._outbox = Outbox(directory)
            self._outbox.fetch(METRICS)
            self._path = self._outbox.place / METRICS
            if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
                with self._path.open("a") as file:
                    file.write("\n")  # after a line that a kill or a full disk has torn
            import tensorboardX  # with torch, where there is one, which takes more than a second

            self._board = tensorboardX.SummaryWriter(str(self._outbox.place / "tensorboard"))

    def log(self, generation: int, arm: str, step: int, values: dict[str, float]) -> None:
        """Adds the values of one step, such as {"loss": 2.31}. A process that is not the writer does nothing."""
        if not self._writer:
            return
        of = f"{arm}/gen-{generation:03d}"
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        entry = {"time": round(time.time(), 1), "generation": generation, "arm": arm, "step": step, **rounded}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        curves = {f"{of}/{name}": value for name, value in rounded.items()}
        for name, value in curves.items():
            self._board.add_scalar(name, value, step)
        self._outbox.send(after=UPLOADED)
        if self._sent:
            self._sent.define_metric(f"{of}/*", step_metric=f"{of}/step")
            self._sent.log({**curves, f"{of}/step": step})

    def forget(self, arm: str) -> None:
        """Takes the steps of an arm out of `metrics.jsonl`."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        with whole(self._path) as fresh:
            fresh.write_bytes(b"".join(line for line in lines if f'"arm": "{arm}"'.encode() not in line))

    def close(self) -> None:
        """Ends what is open, with everything sent."""
        if self._writer:
            self._board.close()
            self._outbox.close()
            if self._sent:
                self._sent.finish()


def _sending(directory: epath.Path, project: str, settings: Mapping[str, Any] | None) -> Any:
    """A run of Weights & Biases, which goes on when that of the directory does."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise ValueError(f"wandb: it needs the library wandb; {installing('wandb')}") from error
    try:
        return wandb.init(
            project=project,
            name=directory.name,
            id=hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(directory),
            config=dict(settings or {}),
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
    except wandb.errors.Error as error:
        said = " ".join(str(error).split())
        raise ValueError(f"wandb: {said}; set WANDB_API_KEY, or WANDB_MODE=offline, or leave out --wandb") from error


@contextlib.contextmanager
def timed(directory: epath.Path, stage: str) -> Iterator[None]:
    """Adds the seconds that a stage took to the directory's stages.json, across resumes, and records them in the run's
    goodput.jsonl."""
    path, began = directory / "stages.json", time.monotonic()
    with goodput.stage(stage, directory.name, again=stage in numbers_in(path)):
        yield
    spent = numbers_in(path)
    spent[stage] = round(spent.get(stage, 0.0) + time.monotonic() - began, 2)
    with whole(path) as fresh:
        fresh.write_text(json.dumps(spent, indent=1) + "\n")

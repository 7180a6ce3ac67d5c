"""How a run tells what it does: progress for people, metrics for files. The loop knows only these two."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import tensorboardX
from etils import epath

from ratchet.bootstrap.ledger import write_json
from ratchet.train.records import whole


class Progress(Protocol):
    """Shows work being done. `stage` yields a function that takes how many more items are finished, and optionally one
    line about them."""

    def stage(self, title: str, total: int) -> contextlib.AbstractContextManager[Callable[..., None]]: ...

    def line(self, text: str) -> None: ...


class Silent:
    """No output, for tests and for evaluation inside other programs."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        yield lambda done, about="": None

    def line(self, text: str) -> None: ...


class Metrics:
    """Appends every logged step to `metrics.jsonl` and to TensorBoard. A resumed run may log a step twice, alike."""

    def __init__(self, directory: epath.Path):
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl"
        self._board = tensorboardX.SummaryWriter(str(directory / "tensorboard"))

    def log(self, generation: int, arm: str, step: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        entry = {"time": round(time.time(), 1), "generation": generation, "arm": arm, "step": step, **rounded}
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for name, value in rounded.items():
            self._board.add_scalar(f"{arm}/gen-{generation:03d}/{name}", value, step)

    def forget(self, arm: str) -> None:
        """Takes the steps of an arm out of `metrics.jsonl`."""
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        with whole(self._path) as fresh:
            fresh.write_text("".join(line for line in lines if f'"arm": "{arm}"' not in line))

    def close(self) -> None:
        self._board.close()


@contextlib.contextmanager
def timed(directory: epath.Path, stage: str) -> Iterator[None]:
    """Adds the seconds that a stage took to the directory's stages.json, across resumes."""
    began = time.monotonic()
    yield
    path = directory / "stages.json"
    spent = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, spent | {stage: round(spent.get(stage, 0.0) + time.monotonic() - began, 2)})

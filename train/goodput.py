"""Where the time of a run goes, as it happens: an event a line in `goodput.jsonl`, in the run's directory.

Events have the names of ml-goodput-measurement, so that what reads its logs reads these. A stage of the loop is a
custom event; it ends, and another of the same type begins, whenever what was made so far is safe from a kill, so that
what has no end was lost. Two fields are ours: `place`, the generation or arm that a stage is of, and `compiling`, the
seconds that the process has compiled since the line before.
"""

import contextlib
import functools
import json
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

import jax
from etils import epath

from ratchet.train.buckets import UPLOADED, Outbox

FILE = "goodput.jsonl"
Activity = Literal["tpu_init", "training_prep", "data_loading"]
"""What is done beside the stages themselves: until devices are there, until work can begin, and reading examples."""
COMPILING = "/jax/core/compile/"
"""What JAX calls the durations of tracing, lowering and compiling a program."""
STAGE = "custom_badput_event"
"""What the names of a stage's fields begin with."""


class _Compiled:
    """Seconds in which the process compiled. JAX tells of a program that is traced within another as well as of that
    one: seconds that both took count once."""

    def __init__(self):
        self._spans: list[tuple[float, float]] = []

    def add(self, seconds: float) -> None:
        """Adds a program that took so many seconds to compile, until now."""
        end = time.monotonic()
        begin = end - seconds
        while self._spans and self._spans[-1][1] > begin:
            begin = min(begin, self._spans.pop()[0])
        self._spans.append((begin, end))

    def taken(self) -> float:
        """The seconds since the last call."""
        seconds = sum(end - begin for begin, end in self._spans)
        self._spans.clear()
        return seconds


class _Recorder:
    """Appends the events of one process's life, its job, to the file of a run. `stages` are those under way, the
    innermost last."""

    def __init__(self, directory: epath.Path):
        self._outbox, self._name, self.compiled = Outbox(directory), directory.name, _Compiled()
        self._outbox.fetch(FILE)
        self.stages: list[dict[str, Any]] = []

    def write(self, **fields: Any) -> None:
        line = {"job_name": self._name, **fields}
        if seconds := round(self.compiled.taken(), 3):
            line["compiling"] = seconds
        with (self._outbox.place / FILE).open("a") as file:
            file.write(json.dumps(line) + "\n")
        self._outbox.send(after=UPLOADED)

    def close(self) -> None:
        self._outbox.close()


_RECORDER: ContextVar[_Recorder | None] = ContextVar("goodput", default=None)


@contextlib.contextmanager
def recording(directory: epath.Path, began: float, found_devices: float) -> Iterator[None]:
    """Within, events are written into a run's directory. They say that the job `began`, when it `found_devices`, both
    in seconds since 1970, and that it was prepared until now."""
    _listen()
    recorder, now = _Recorder(directory), time.time()
    token = _RECORDER.set(recorder)
    recorder.write(job_start_time=began)
    for name, start, end in (("tpu_init", began, found_devices), ("training_prep", found_devices, now)):
        recorder.write(**{f"{name}_start_time": start})
        recorder.write(**{f"{name}_end_time": end})
    try:
        yield
    finally:
        _RECORDER.reset(token)
        recorder.write(job_end_time=time.time())
        recorder.close()


def event(**fields: Any) -> None:
    """Writes an event, one of whose fields is a time; nothing where nothing is recorded."""
    if recorder := _RECORDER.get():
        recorder.write(**fields)


def compiled(seconds: float) -> None:
    """Records that the process has waited so long, until now, for a thread that compiles: what other threads compile
    is not counted."""
    if recorder := _RECORDER.get():
        recorder.compiled.add(seconds)


@contextlib.contextmanager
def activity(name: Activity) -> Iterator[None]:
    """Records from when to when something is done that is no stage, unless it raises."""
    event(**{f"{name}_start_time": time.time()})
    yield
    event(**{f"{name}_end_time": time.time()})


@contextlib.contextmanager
def stage(name: str, place: str, again: bool) -> Iterator[None]:
    """Records a stage of a generation or arm, such as ("review", "gen-001"), in the parts that were kept. `again` says
    that the stage was finished before, so that it only reads what it made."""
    recorder = _RECORDER.get()
    if not recorder:
        yield
        return
    about = {f"{STAGE}_type": name, "place": place} | ({"again": True} if again else {})
    recorder.stages.append(about)
    recorder.write(**about, **{f"{STAGE}_start_time": time.time()})
    try:
        yield
        recorder.write(**about, **{f"{STAGE}_end_time": time.time()})
    finally:
        recorder.stages.pop()


def kept() -> None:
    """Records that what the stage under way has made so far will be found again after a kill."""
    recorder = _RECORDER.get()
    if recorder and recorder.stages:
        now = time.time()
        recorder.write(**recorder.stages[-1], **{f"{STAGE}_end_time": now})
        recorder.write(**recorder.stages[-1], **{f"{STAGE}_start_time": now})


@contextlib.contextmanager
def checkpoint(operation: Literal["save", "restore"]) -> Iterator[None]:
    """Records how long training waits for a checkpoint to be copied out or read; what is saved is kept."""
    began = time.time()
    yield
    name = "checkpoint_manager_blocking" if operation == "save" else "checkpoint_manager"
    took = {f"{name}_start_time": began, f"{name}_duration_secs": round(time.time() - began, 3)}
    event(event_type=operation, **took)
    if operation == "save":
        kept()


@functools.cache
def _listen() -> None:
    """Has JAX tell what it compiles, for as long as the process lives."""

    def told(name: str, seconds: float, **_: Any) -> None:
        recorder = _RECORDER.get()
        if recorder and name.startswith(COMPILING):
            recorder.compiled.add(seconds)

    jax.monitoring.register_event_duration_secs_listener(told)

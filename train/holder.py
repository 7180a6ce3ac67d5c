"""Which process works on a run: one at a time, and what it says of itself.

A process holds a run's directory by a lock of the system, which goes when the process does, however that dies. Its
record beside the lock says who it is and what it does, and is written anew every few seconds. File systems of a network
may keep such locks within a host, and object stores have none: there the record alone tells whether a process on
another host is alive.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from pydantic import BaseModel

from ratchet.train.files import whole
from ratchet.train.together import ALONE, Together

LOCK, RECORD = "lock", "working.json"
BEAT = 5.0
"""Seconds between two writings of the record."""
SILENCE = 90.0
"""Seconds without a new record after which a process on another host counts as dead: file systems of a network may show
a new file a minute late."""
ATTEMPTS = 10
"""Times that a lock is tried for, 50 ms apart: `holder_of` takes it for a moment to see whether it is free."""


class _Doing(BaseModel):
    title: str
    since: float
    done: int
    total: int
    left: float | None
    about: list[str] = []


class _Sampled(BaseModel):
    steps: int
    working: int
    slots: int


class _Record(BaseModel):
    host: str
    pid: int
    since: float
    heard: float
    doing: _Doing | None
    sampled: _Sampled | None = None


class Busy(ValueError):
    """Another process works on the run."""


class Holder:
    """The process that works on a run. It writes its record as long as it is entered."""

    def __init__(self, directory: epath.Path):
        self._path = directory / RECORD
        self._who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self.meter: Any = None
        """What counts the steps of the sampler, the slots that worked in them, and all slots, once there is one."""
        self._doing: dict[str, Any] | None = None
        self._wake, self._over = threading.Event(), False
        self._thread = threading.Thread(target=self._beats, daemon=True, name="holder")

    @property
    def doing(self) -> dict[str, Any] | None:
        """What the process does: the `title` of a stage, `since` when, how many items of its `total` are `done`, the
        seconds that are `left` of it, where known, and short parts `about` the newest item; None between stages."""
        return self._doing

    @doing.setter
    def doing(self, doing: dict[str, Any] | None) -> None:
        began = (doing or {}).get("title") != (self._doing or {}).get("title")
        self._doing = doing
        if began:
            self._wake.set()  # else the next beat is early enough

    def __enter__(self) -> "Holder":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def _beats(self) -> None:
        while not self._over:
            self._wake.wait(BEAT)
            self._wake.clear()
            with contextlib.suppress(OSError):  # of a full disk, say, the run itself tells better
                self._write()

    def _write(self) -> None:
        meter = self.meter
        sampled = meter and {"steps": meter.steps, "working": meter.working, "slots": meter.slots}
        said = {"heard": time.time(), "doing": self._doing, "sampled": sampled}
        with whole(self._path) as fresh:
            fresh.write_text(json.dumps(self._who | said, indent=1) + "\n")


@contextlib.contextmanager
def holding(
    directory: epath.Path, say: Callable[[str], None] = lambda line: None, together: Together = ALONE
) -> Iterator[Holder]:
    """Holds a run's directory, which it makes first. Raises Busy when another process does.

    Where a process on another host left a record, it waits up to SILENCE seconds for a newer one, and has `say` tell
    so. Of processes that run together, the first one holds the directory for all.
    """
    holder = Holder(directory)
    with contextlib.ExitStack() as held:

        def hold() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            held.enter_context(_locked(directory, say))
            held.enter_context(holder)

        together.decided("whether the run is free", hold)
        yield holder


def holder_of(directory: epath.Path) -> dict[str, Any] | None:
    """The record of the process that works on a run, or None when there is no such process.

    Keys: host, pid, since and heard, in seconds since 1970; doing, as `Holder.doing` has it; and sampled, the steps of
    the sampler so far, the slots that worked in them, and all slots, None before it is there.
    """
    record = _record(directory)
    if record and record["host"] == socket.gethostname():
        with _opened(directory, os.O_RDONLY) as handle:
            free = _lock(handle, fcntl.LOCK_SH, 1)
        if free is not None:
            return None if free else record
    return record if record and time.time() - record["heard"] < SILENCE else None


@contextlib.contextmanager
def _locked(directory: epath.Path, say: Callable[[str], None]) -> Iterator[None]:
    with _opened(directory, os.O_RDWR | os.O_CREAT) as handle:
        free = _lock(handle, fcntl.LOCK_EX, ATTEMPTS)
        if free is False:
            raise Busy(_refusal(directory, _record(directory)))
        _wait_for_silence(directory, free is True, say)
        yield


@contextlib.contextmanager
def _opened(directory: epath.Path, mode: int) -> Iterator[int | None]:
    """The lock of a directory as an open file; None in an object store, and where there is none to read."""
    path = os.fspath(directory / LOCK)
    if "://" in path or (mode == os.O_RDONLY and not os.path.exists(path)):
        yield None
        return
    handle = os.open(path, mode, 0o666)
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(handle: int | None, kind: int, attempts: int) -> bool | None:
    """Whether a lock was free, and so is taken; None where there are no locks."""
    for attempt in range(attempts if handle is not None else 0):
        if attempt:
            time.sleep(0.05)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            continue
        except OSError:
            return None
    return None if handle is None else False


def _wait_for_silence(directory: epath.Path, locked: bool, say: Callable[[str], None]) -> None:
    """Returns when the process that left a record is dead, and raises Busy when it is not."""
    left, waited = _record(directory), 0.0
    if not left or (locked and left["host"] == socket.gethostname()):
        return
    say(f"{directory}: {_who(left)} worked on it; waiting up to {SILENCE:.0f} seconds to see whether it still does")
    while waited < SILENCE:
        time.sleep(BEAT)
        waited += BEAT
        now = _record(directory)
        if not now:
            return
        if now != left:
            raise Busy(_refusal(directory, now))


def _refusal(directory: epath.Path, record: dict[str, Any]) -> str:
    who = _who(record) if record else "another process"
    return f"{directory}: {who} works on this run; stop it or let it end, then `ratchet resume {directory}` goes on"


def _who(record: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record["since"]))
    return f"process {record['pid']} on {record['host']}, since {since},"


def _record(directory: epath.Path) -> dict[str, Any]:
    """The record that is there; {} when there is none that a holder wrote: then the lock alone tells."""
    try:
        return _Record.model_validate_json((directory / RECORD).read_bytes()).model_dump(exclude_unset=True)
    except (FileNotFoundError, ValueError):
        return {}

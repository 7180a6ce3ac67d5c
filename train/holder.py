"""Which process works on a run: one at a time, and what it says of itself.

A process holds a run's directory by a lock of the system, which goes when the process does, however that dies. Its
record beside the lock says who it is and what it does, and is written anew every few seconds. File systems of a network
may keep such locks within a host: there the record alone tells whether a process on another host is alive. It is alive
when the record changes; what its clock says does not count.

A bucket has no locks, so there processes take turns (see `ratchet.train.turns`), and the record is that of the turn. A
process that works there alone also holds a lock on its machine's disk, in which it has written who it is: whoever gets
that lock and finds there who left the record knows at once that this process is gone. Elsewhere only silence tells.
"""

import contextlib
import fcntl
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath
from pydantic import BaseModel

from ratchet.train import turns
from ratchet.train.buckets import StoreError, in_bucket, read
from ratchet.train.commits import sha256
from ratchet.train.files import typed, whole
from ratchet.train.together import ALONE, Together

LOCK, RECORD = "lock", "working.json"
"""The files of a run's directory on a disk in which it is held."""
BEAT = 5.0
"""Seconds between two writings of the record."""
SILENCE = 90.0
"""Seconds without a new record after which a process on another host counts as dead: file systems of a network may show
a new file a minute late."""
SENT = 5.0
"""Seconds after the end of a process within which a bucket has what it sent last."""
WATCH = 15.0
"""Seconds for which a record whose time is not of the last SILENCE seconds is watched, to say whether it changes."""
ATTEMPTS = 10
"""Times that a lock is tried, 50 ms apart: `holder_of` takes it for a moment to see whether it is free."""


class _Doing(BaseModel):
    """What a process does, as `Holder.doing` has it."""

    title: str
    since: float
    done: int
    total: int
    left: float | None
    about: list[str] = []


class _Sampled(BaseModel):
    """What its sampler has done so far: steps, slots that worked in them, and all slots, both summed over the steps."""

    steps: int
    working: int
    slots: int


class _Record(BaseModel):
    """What a process says of itself; times are in seconds since 1970."""

    host: str
    pid: int
    since: float
    heard: float
    doing: _Doing | None
    sampled: _Sampled | None = None


class Busy(ValueError):
    """Another process works on the run, or has taken it over."""


class Holder:
    """The process that works on a run. It writes its record as long as it is entered."""

    def __init__(self, directory: epath.Path):
        self._directory, self._path = directory, directory / RECORD
        self._turn = 0  # in a bucket alone
        self._over_by: dict[str, Any] | None = None
        self._who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        self.meter: Any = None
        """Counts the steps of the sampler, the slots that worked in them and all slots; None before there is a
        sampler."""
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

    @property
    def named(self) -> bytes:
        """Who it is, as a lock on its machine's disk has it."""
        return _named(self._who)

    def claim(self, over: int) -> None:
        """Writes the first record. In a bucket this takes the turn after the one that is `over`, and raises Busy where
        another process was faster."""
        if not in_bucket(self._directory):
            self._write()
            return
        self._turn, self._path = over + 1, turns.place(self._directory, over + 1)
        if not turns.take(self._directory, self._turn, self._text().encode()):
            raise Busy(_refusal(self._directory, _record(self._directory)))

    def check(self) -> None:
        """Raises Busy when another process has taken the run over, since this one was not heard of for too long."""
        if self._over_by is not None:
            raise Busy(_refusal(self._directory, self._over_by))

    def __enter__(self) -> "Holder":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()
        if self._over_by is not None:
            return
        if not self._turn:
            self._path.unlink(missing_ok=True)
            return
        with contextlib.suppress(StoreError):  # how the run ended matters more, and silence says it too
            turns.end(self._directory, self._turn)

    def _beats(self) -> None:
        while not self._over:
            self._wake.wait(BEAT)
            self._wake.clear()
            with contextlib.suppress(OSError):  # of a full disk, say, the run itself tells better
                if self._taken_over():
                    self._over_by = _record(self._directory)
                    return
                self._write()

    def _taken_over(self) -> bool:
        """Whether there is a newer turn, or the record that is there is another's."""
        if self._turn and turns.newest(self._directory) != self._turn:
            return True
        found = _record(self._directory)
        return bool(found) and any(found[name] != self._who[name] for name in self._who)

    def _write(self) -> None:
        with whole(self._path) as fresh:
            fresh.write_text(self._text())

    def _text(self) -> str:
        meter = self.meter
        sampled = meter and {"steps": meter.steps, "working": meter.working, "slots": meter.slots}
        said = {"heard": time.time(), "doing": self._doing, "sampled": sampled}
        return json.dumps(self._who | said, indent=1) + "\n"


@contextlib.contextmanager
def holding(
    directory: epath.Path, say: Callable[[str], None] = lambda line: None, together: Together = ALONE
) -> Iterator[Holder]:
    """Holds a run's directory, which it makes first. Raises Busy when another process does.

    Where a record was left and no lock tells that its process is gone, it waits up to SILENCE seconds for a newer one,
    and has `say` tell so. Of processes that run together, the first one holds the directory for all; that it is gone
    tells no lock in a bucket, where the others may write as well.
    """
    holder = Holder(directory)
    with contextlib.ExitStack() as held:

        def hold() -> None:
            if not in_bucket(directory):
                directory.mkdir(parents=True, exist_ok=True)
            over = held.enter_context(_locked(directory, say, holder.named if together.count == 1 else b""))
            holder.claim(over)
            held.enter_context(holder)

        together.decided("whether the run is free", hold)
        yield holder


_DEAD: dict[str, dict[str, Any]] = {}
"""By directory, the last record of a process that was watched in vain, so that nobody watches it again."""


def holder_of(directory: epath.Path) -> dict[str, Any] | None:
    """The record of the process that works on a run, or None when there is no such process.

    Keys: host, pid, since and heard, in seconds since 1970; doing, as `Holder.doing` has it; and sampled, the steps of
    the sampler so far, the slots that worked in them, and all slots, None before it is there.
    """
    record = _record(directory)
    if record:
        with _opened(directory, os.O_RDONLY) as handle:
            free = _lock(handle, fcntl.LOCK_SH, 1)
            told = free is not None and _tells_of(handle, directory, record)
        if told:
            return None if free else record
    if record and not 0 <= time.time() - record["heard"] < SILENCE:
        if _DEAD.get(str(directory)) == record:
            return None
        found = _watched(directory, record, WATCH)
        if found is None:
            _DEAD[str(directory)] = record
        return found
    return record or None


@contextlib.contextmanager
def _locked(directory: epath.Path, say: Callable[[str], None], named: bytes) -> Iterator[int]:
    """Holds the lock of a directory, where there is one, once who was there is dead or done. The lock of a bucket is
    told who holds it. Gives the number of the turn that is over in a bucket, 0 on a disk."""
    over = turns.newest(directory) if in_bucket(directory) else 0
    with _opened(directory, os.O_RDWR | os.O_CREAT) as handle:
        free = _lock(handle, fcntl.LOCK_EX, ATTEMPTS)
        if free is False:
            raise Busy(_refusal(directory, _record(directory)))
        if left := _record(directory):
            _wait_for_end(directory, left, free is True and _tells_of(handle, directory, left), say)
        if not free or not in_bucket(directory):
            yield over
            return
        os.ftruncate(handle, 0)
        os.pwrite(handle, named, 0)
        try:
            yield over
        finally:  # what is left is of a process that was killed
            epath.Path(_lock_of(directory)).unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(directory: epath.Path, mode: int) -> Iterator[int | None]:
    """The lock of a directory as an open file; None where there is none to read, and where that of a bucket cannot be
    had."""
    path, handle = _lock_of(directory), None
    if mode & os.O_CREAT or os.path.exists(path):
        try:
            handle = os.open(path, mode, 0o666)
        except OSError:
            if not in_bucket(directory):
                raise
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _lock_of(directory: epath.Path) -> str:
    """The path of a directory's lock; that of a bucket lies on this machine's disk."""
    path = os.fspath(directory / LOCK)
    if not in_bucket(directory):
        return path
    return f"{tempfile.gettempdir()}/ratchet-{os.getuid()}-{sha256(path.encode())[:16]}.lock"


def _tells_of(handle: int, directory: epath.Path, record: dict[str, Any]) -> bool:
    """Whether the process that left a record holds this lock as long as it lives."""
    here = record["host"] == socket.gethostname()
    return here and (not in_bucket(directory) or os.pread(handle, 4096, 0) == _named(record))


def _named(record: dict[str, Any]) -> bytes:
    return json.dumps([record["host"], record["pid"], record["since"]]).encode()


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


def _wait_for_end(directory: epath.Path, left: dict[str, Any], gone: bool, say: Callable[[str], None]) -> None:
    """Returns when the process that left a record is dead, which is known where it is `gone`, and else raises Busy."""
    if gone and not in_bucket(directory):
        return
    if gone:
        say(f"{directory}: {_who(left)} worked on it and is gone; waiting {SENT:.0f} seconds for what it sent last")
        time.sleep(SENT)
        return
    say(
        f"{directory}: {_who(left)} worked on it, and only silence tells from here that it is gone; waiting up to "
        f"{SILENCE:.0f} seconds for a sign of life"
    )
    if now := _watched(directory, left, SILENCE):
        raise Busy(_refusal(directory, now))


def _watched(directory: epath.Path, left: dict[str, Any], seconds: float) -> dict[str, Any] | None:
    """The record that takes the place of the one that was `left`, within so many seconds; None where none does."""
    waited = 0.0
    while waited < seconds:
        time.sleep(BEAT)
        waited += BEAT
        now = _record(directory)
        if now != left:
            return now or None
    return None


def _refusal(directory: epath.Path, record: dict[str, Any]) -> str:
    who = _who(record) if record else "another process"
    advice = f"stop it or let it end, then `ratchet resume {typed(directory)}` goes on"
    return f"{directory}: {who} works on this run; {advice}"


def _who(record: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(record["since"]))
    return f"process {record['pid']} on {record['host']}, since {since},"


def _record(directory: epath.Path) -> dict[str, Any]:
    """The record that is there; {} when there is none that a holder wrote: then the lock alone tells."""
    try:
        path = turns.place(directory, turns.newest(directory)) if in_bucket(directory) else directory / RECORD
        return _Record.model_validate_json(read(path)).model_dump(exclude_unset=True)
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return {}

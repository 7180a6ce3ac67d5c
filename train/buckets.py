"""Runs in a bucket, such as gs://bucket/runs/x or s3://bucket/runs/x: what an object store does otherwise than a disk.

Paths go through etils.epath wherever their files lie, and through fsspec's library of the store here, which
`ratchet[buckets]` brings. An object appears whole once its upload has ended. It cannot be renamed or appended to, a
directory of objects cannot appear at once, and nothing can be locked. Credentials and endpoints are those of the
libraries.
"""

import contextlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import fsspec
from etils import epath

_OF_STORES = {
    "gcsfs", "s3fs", "google", "botocore", "aiobotocore", "aiohttp", "requests", "urllib3", "fsspec", "tensorstore",
}  # fmt: skip
"""Packages whose errors are those of a store."""
_STATUS = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED", "DEADLINE_EXCEEDED", "ABORTED")
"""What TensorStore's errors about a store begin with; their type is ValueError."""

for _protocol in ("gcs", "s3"):  # other processes, and TensorStore in this one, write what a kept listing does not know
    fsspec.config.conf.setdefault(_protocol, {}).setdefault("use_listings_cache", False)

UPLOADED = 30.0
"""Seconds between two uploads of what grows, such as metrics."""


_DENIED = re.compile(r"forbidden|denied|unauthori[sz]ed|unauthenticated|credential|\b40[13]\b", re.IGNORECASE)
"""What libraries of stores say where credentials are missing or do not allow it."""
STORES = ("gs", "s3")
"""The stores in which a run, a model and documents may lie, as addresses begin with them."""


class StoreError(OSError):
    """A bucket that is missing, refuses or does not answer: one line. `again` tells that it may answer another time."""

    again = False


def store_of(path: epath.PathLike) -> str:
    """The kind of store in which a path lies, such as "gs" or "s3"; "" on a disk."""
    return os.fspath(path).rpartition("://")[0]


def place_of(named: str) -> epath.Path:
    """The path of this name, on a disk or in a bucket. Raises StoreError for an address of any other kind."""
    if (store := store_of(named)) and store not in STORES:
        raise StoreError(f"{named} is no path; give one on a disk, or in a bucket ({':// or '.join(STORES)}://)")
    return epath.Path(named)


def in_bucket(path: epath.PathLike) -> bool:
    """Whether a path lies in an object store."""
    return store_of(path) != ""


def reason(error: BaseException) -> str | None:
    """What the library of a store said in an error, or in what the error came from; None where none said anything but
    that an object is missing or there already."""
    for one in causes(error):
        of_tensorstore = isinstance(one, ValueError) and str(one).startswith(_STATUS)  # XLA has others that begin so
        if of_tensorstore or type(one).__module__.partition(".")[0] in _OF_STORES:
            return f"{type(one).__name__}: {_in_a_line(one)}"
        if isinstance(one, OSError) and not isinstance(one, FileNotFoundError | FileExistsError) and _by_a_store(one):
            return _in_a_line(one)
    return None


def may_come_back(error: BaseException) -> bool:
    """Whether a store may do another time what it did not: unless it lets nobody in, by what its library says beside
    paths, or by the kind of the error."""
    said = re.sub(r"\S*/\S*", "", reason(error) or "")
    return not (_DENIED.search(said) or any(isinstance(one, PermissionError) for one in causes(error)))


def causes(error: BaseException) -> list[BaseException]:
    """An error, and what it came from, in turn."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return chain


@contextlib.contextmanager
def answering(path: epath.PathLike) -> Iterator[None]:
    """Has every error of a store's library raised within as a StoreError about `path`, but for objects that are missing
    or there already."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, StoreError):
        raise
    except Exception as error:
        if said := reason(error):
            failed = StoreError(f"{os.fspath(path)}: the bucket does not do it ({said})")
            failed.again = may_come_back(error)
            raise failed from error
        raise


def reach(path: epath.Path) -> None:
    """Raises StoreError in one line when a path lies in a bucket that is missing or cannot be looked into."""
    if not in_bucket(path):
        return
    bucket = "/".join(os.fspath(path).split("/")[:3])
    with answering(path):
        found = fsspec.core.url_to_fs(bucket)[0].exists(bucket)
    if not found:
        raise StoreError(f"{path}: the bucket {bucket} is not there for you; make it, or see to your credentials")


def read(path: epath.Path) -> bytes:
    """The content of a file. Of an object it is one version, whoever replaces it meanwhile."""
    if not in_bucket(path):
        return path.read_bytes()
    with answering(path):
        store, name = _store(path)
        return store.cat_file(name)


def create(path: epath.Path, content: bytes) -> bool:
    """Makes an object unless it is there; returns whether it did. The store decides which of several is the first."""
    store, name = _store(path)
    try:
        with answering(path):
            store.pipe_file(name, content, mode="create")
    except FileExistsError:
        return False
    return True


def upload(source: epath.Path, target: epath.Path) -> None:
    """Copies a file of this machine, or a directory file by file in the order of their names, into a bucket."""
    if source.is_dir():
        for file in sorted(source.iterdir()):
            upload(file, target / file.name)
        return
    with answering(target):
        store, name = _store(target)
        store.put_file(os.fspath(source), name)


def download(source: epath.Path, target: epath.Path) -> None:
    """Copies an object, or all below a path, from a bucket to this machine."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            download(file, target / file.name)
        return
    with answering(source):
        store, name = _store(source)
        store.get_file(name, os.fspath(target))


@contextlib.contextmanager
def on_disk(path: epath.Path) -> Iterator[epath.Path]:
    """A file where libraries that know no buckets can read it: itself, or a copy as long as the block lasts."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as place:
        download(path, copy := epath.Path(place) / path.name)
        yield copy


class Outbox:
    """A directory on this machine's disk that libraries write to. Its files go on to a directory in a bucket; where the
    target lies on a disk, it is that directory itself."""

    def __init__(self, target: epath.Path):
        self._target, self._sent = target, time.monotonic()  # when it was last uploaded
        self._temporary = tempfile.TemporaryDirectory() if in_bucket(target) else None
        self.place = epath.Path(self._temporary.name) if self._temporary else target
        self.place.mkdir(parents=True, exist_ok=True)

    def fetch(self, name: str) -> None:
        """Has a file in the directory as it lies in the bucket, if it does."""
        if self._temporary and (self._target / name).exists():
            (self.place / name).write_bytes(read(self._target / name))

    def send(self, after: float = 0.0) -> None:
        """Uploads all files, unless that was done in the last `after` seconds."""
        if self._temporary and time.monotonic() - self._sent >= after:
            upload(self.place, self._target)
            self._sent = time.monotonic()

    def close(self) -> None:
        """Uploads all files, and removes them here."""
        with self._temporary or contextlib.nullcontext():
            self.send()


def _store(path: epath.Path) -> tuple[Any, str]:
    """The store in which a path lies, as fsspec knows it, and the path's name there."""
    return fsspec.core.url_to_fs(os.fspath(path))


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _by_a_store(error: BaseException) -> bool:
    """Whether a store's library raised an error of the system's kind, such as PermissionError."""
    trace, modules = error.__traceback__, set()
    while trace:
        modules.add(trace.tb_frame.f_globals.get("__name__", "").partition(".")[0])
        trace = trace.tb_next
    return not modules.isdisjoint(_OF_STORES)

"""Copies on this machine's disk of what lies in a bucket: what reads models and documents knows no buckets.

Beside every copy lies a lock, which says of what it is a copy. A process that reads a copy holds the lock with others
until it ends, and one that makes or removes it holds it alone. So a copy is never removed from under a reader, whatever
becomes of the bucket meanwhile.
"""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from etils import epath

from ratchet.models.extras import installing
from ratchet.train.buckets import StoreError, answering, in_bucket, place_of
from ratchet.train.commits import sha256

log = logging.getLogger(__name__)

UNUSED = 7 * 24 * 3600.0
"""Seconds since a process last began to read a copy, after which it is removed when another is made."""
_VERSION = ("ETag", "etag", "md5Hash", "mtime", "LastModified")
"""What stores call that which changes with an object's content."""
_READING: list[int] = []
"""The locks of the copies that this process reads, as open files; they are closed when it ends."""


@functools.cache
def nearby(path: str) -> epath.Path:
    """A path on a disk as it is; of a file or a folder in a bucket a copy, under the same name.

    It is made once for all processes of a machine, in ~/.cache/ratchet/buckets, and again when an object has changed
    since. Before one is made, those go that no process reads: earlier ones of the same path, and any that is UNUSED.
    Raises StoreError when there is nothing, when the bucket does not give it, and without the store's library.
    """
    if not in_bucket(there := place_of(path)):
        return there
    whole = path.rstrip("/")
    try:
        store, root = fsspec.core.url_to_fs(whole)
    except ImportError as error:
        raise StoreError(f"{path}: {str(error).splitlines()[0]}; {installing('buckets')}") from error
    with answering(path):
        objects = _objects(store.find(root, detail=True), root)
    if not objects:
        raise StoreError(f"{path}: nothing lies there for you; see to the path, or to your credentials")
    versions = [(name, *map(str, info.values())) for name, (_, info) in sorted(objects.items())]
    place = Path.home() / ".cache" / "ratchet" / "buckets" / sha256(repr((whole, versions)).encode())[:32]
    place.parent.mkdir(parents=True, exist_ok=True)
    while not _is_read(place):
        # Who waited to hold it alone might wait for as long as those live that read it meanwhile.
        with contextlib.suppress(BlockingIOError), _alone(place, fcntl.LOCK_NB):
            if not place.exists():
                _lock(place).write_text(whole)
                _tidy(place.parent, whole)
                _fetch(store, objects, _part(place), PurePosixPath(root).name, path)
                _part(place).rename(place)
    return epath.Path(place / PurePosixPath(root).name)


def _objects(found: Mapping[str, Mapping[str, Any]], root: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Objects by their path below the root, "" for the root itself: their names in the store, and what tells a version
    of one from others. Those that stand for folders are left out."""
    below = {name: name.removeprefix(root).lstrip("/") for name in found if not name.endswith("/")}
    versions = lambda info: {key: info[key] for key in ("size", *_VERSION) if key in info}
    return {path: (name, versions(found[name])) for name, path in below.items() if ".." not in path.split("/")}


def _fetch(store: Any, objects: Mapping[str, tuple[str, Mapping[str, Any]]], place: Path, name: str, path: str) -> None:
    """Copies objects, many at a time, below a place under a name. Raises StoreError when not all of one came."""
    shutil.rmtree(place, ignore_errors=True)
    targets = {below: place / name / below for below in objects}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    with answering(path):
        store.get([there for there, _ in objects.values()], [os.fspath(target) for target in targets.values()])
    for below, (there, version) in objects.items():
        if not targets[below].is_file() or targets[below].stat().st_size != version["size"]:
            raise StoreError(f"{path}: {there} did not come whole; try again")


def _is_read(place: Path) -> bool:
    """Whether a copy is there; if so, none may remove it as long as this process lives."""
    handle = _locked(place, fcntl.LOCK_SH)
    if not place.exists():
        os.close(handle)
        return False
    os.utime(handle)
    _READING.append(handle)
    return True


def _tidy(copies: Path, source: str) -> None:
    """Removes copies that no process uses: those of a source that has changed, and those that were unused for long."""
    for lock in sorted(copies.glob("*.lock")):
        with contextlib.suppress(BlockingIOError), _alone(lock.with_suffix(""), fcntl.LOCK_NB):
            of, old = lock.read_text(), time.time() - lock.stat().st_mtime > UNUSED
            if of == source or old:
                _remove(lock.with_suffix(""))
                why = "that has changed" if of == source else f"it was not read for {UNUSED / 86400:.0f} days"
                log.warning("%s: the copy of %s is gone, since %s", copies, of, why)


def _remove(place: Path) -> None:
    """Removes a copy that this process holds alone, so that what is left is no copy wherever it is killed."""
    shutil.rmtree(_part(place), ignore_errors=True)
    if place.exists():
        place.rename(_part(place))
        shutil.rmtree(_part(place))
    _lock(place).unlink()


@contextlib.contextmanager
def _alone(place: Path, how: int = 0) -> Iterator[None]:
    """Holds a copy alone, as soon as no other process does. Raises what `_locked` raises."""
    handle = _locked(place, fcntl.LOCK_EX | how)
    try:
        yield
    finally:
        os.close(handle)


def _locked(place: Path, how: int) -> int:
    """The lock of a copy, taken in a way of flock's: an open file, which holds it until it is closed. Raises
    BlockingIOError where it is not free and that way does not wait."""
    while True:
        handle = os.open(_lock(place), os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, how)
            if os.path.samestat(os.fstat(handle), os.stat(_lock(place))):  # else it was removed meanwhile
                return handle
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(handle)
            raise
        os.close(handle)


def _lock(place: Path) -> Path:
    return place.with_suffix(".lock")


def _part(place: Path) -> Path:
    """Where a copy is not whole."""
    return place.with_suffix(".part")

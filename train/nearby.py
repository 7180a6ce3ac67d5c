"""Copies on this machine's disk of what lies in a bucket: what reads models and documents knows no buckets."""

import contextlib
import fcntl
import functools
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from etils import epath

from ratchet.train.buckets import StoreError, answering, in_bucket
from ratchet.train.commits import sha256

_VERSION = ("ETag", "etag", "md5Hash", "mtime", "LastModified")
"""What stores call that which changes with an object's content."""


@functools.cache
def nearby(path: str) -> epath.Path:
    """A path on a disk as it is; of a file or a folder in a bucket a copy, under the same name.

    It is made once for all processes of a machine, in ~/.cache/ratchet/buckets, and again when an object has changed
    since. Raises StoreError when there is nothing, when the bucket does not give it, and without the store's library.
    """
    if not in_bucket(path):
        return epath.Path(path)
    whole = path.rstrip("/")
    try:
        store, root = fsspec.core.url_to_fs(whole)
    except ImportError as error:
        raise StoreError(f"{path}: {str(error).splitlines()[0]}; `pip install 'ratchet[buckets]'`") from error
    with answering(path):
        objects = _objects(store.find(root, detail=True), root)
    if not objects:
        raise StoreError(f"{path}: nothing lies there for you; see to the path, or to your credentials")
    versions = [(name, *map(str, info.values())) for name, (_, info) in sorted(objects.items())]
    place = Path.home() / ".cache" / "ratchet" / "buckets" / sha256(repr((whole, versions)).encode())[:32]
    with _alone(place):
        if not place.exists():
            _fetch(store, objects, place.with_suffix(".part"), PurePosixPath(root).name, path)
            place.with_suffix(".part").rename(place)
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


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Holds off other processes of this machine that want the same copy."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

"""Files that appear whole or not at all, and the unit file that every stage of the loop writes.

A unit file is an ArrayRecord file of payloads, which are bytes. What it should hold is known by the sha256 of its
content, since ArrayRecord reads a file that was cut short as an empty one.
"""

import contextlib
import hashlib
import json
import math
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from ratchet.train.buckets import in_bucket, on_disk, read, upload


class RecordError(ValueError):
    """A record, unit or dataset that cannot be trusted: one line with what, where and how to mend it."""


def typed(path: epath.PathLike) -> str:
    """A path as it is typed in a command: in quotes where a shell would part or change it."""
    return shlex.quote(os.fspath(path))


@contextlib.contextmanager
def whole(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a path beside `path` to write a file or a directory to, which takes the place of `path` when the block
    ends.

    On a disk all of it is there by then, even if the power fails. After an error what was written is removed, and
    `path` is as it was. In a bucket it is uploaded at the end; the files of a directory appear there one by one, so
    whoever reads it looks whether all are there.
    """
    path = epath.Path(path)
    if in_bucket(path):
        with tempfile.TemporaryDirectory() as place:
            yield (fresh := epath.Path(place) / path.name)
            if fresh.is_dir():
                path.rmtree(missing_ok=True)
            upload(fresh, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = (path.parent / f".{path.name}.{suffix}" for suffix in ("tmp", "old"))
    _remove(fresh)
    try:
        yield fresh
        for written in (fresh, *Path(fresh).rglob("*")):
            _sync(written)
    except BaseException:
        _remove(fresh)
        raise
    if path.is_dir():
        _remove(old)
        path.rename(old)
    fresh.replace(path)
    _sync(path.parent)
    _remove(old)


def write_unit(path: epath.PathLike, payloads: Iterable[bytes]) -> str:
    """Writes payloads as an ArrayRecord file, whole or not at all, and returns the sha256 of their content."""
    with whole(path) as fresh:
        _, sha256 = write_payloads(fresh, payloads)
    return sha256


def read_unit(path: epath.PathLike, sha256: str | None = None) -> list[bytes]:
    """The payloads of a unit. With `sha256` given, their content is checked.

    Raises RecordError when the file is missing, unreadable or not what was written.
    """
    path = epath.Path(path)
    if not path.exists():
        raise RecordError(f"{path}: the file is missing; resume the run to make it again")
    try:
        with on_disk(path) as file, contextlib.closing(ArrayRecordReader(os.fspath(file))) as reader:
            payloads = reader.read_all() if reader.num_records() else []
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).split(";")[0].split("\n")[0]
        raise RecordError(f"{path}: the file is damaged ({reason}); delete it and resume the run") from error
    if sha256 not in (None, content_hash(payloads)):
        raise RecordError(f"{path}: the content does not match its sha256; delete it and resume the run")
    return payloads


def write_payloads(path: epath.Path, payloads: Iterable[bytes]) -> tuple[int, str]:
    """Writes an ArrayRecord file in place; returns the number of payloads and the sha256 of their content."""
    digest, count = hashlib.sha256(), 0
    with contextlib.closing(ArrayRecordWriter(os.fspath(path), "group_size:1")) as writer:
        for payload in payloads:
            writer.write(payload)
            _absorb(digest, payload)
            count += 1
    return count, digest.hexdigest()


def content_hash(parts: Iterable[bytes]) -> str:
    """The sha256 of the parts and their lengths, which keep ["ab", "c"] apart from ["a", "bc"]."""
    digest = hashlib.sha256()
    for part in parts:
        _absorb(digest, part)
    return digest.hexdigest()


def write_json(path: epath.Path, value: Any) -> None:
    """Writes JSON that nothing follows from, and which no run commits. A reader sees all of it or nothing."""
    with whole(path) as fresh:
        fresh.write_text(json.dumps(value, indent=1) + "\n")


def add_line(path: epath.Path, line: str) -> None:
    """Adds a line of text to a file, after a line break where its last line has none. Nothing can be appended to an
    object, which is written anew."""
    before = read(path) if path.exists() else b""
    added = (b"" if before.endswith(b"\n") or not before else b"\n") + line.encode() + b"\n"
    if not in_bucket(path):
        with path.open("ab") as file:
            file.write(added)
        return
    with whole(path) as fresh:
        fresh.write_bytes(before + added)


def object_in(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file on which nothing depends; {} when it is missing, damaged, or a directory."""
    try:
        found = json.loads(read(path))
    except (FileNotFoundError, IsADirectoryError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def numbers_in(path: epath.Path) -> dict[str, float]:
    """The finite numbers in a JSON file of which nothing depends, by name; whatever else it holds is left out."""
    return {name: value for name, value in object_in(path).items() if is_number(value)}


def is_number(value: Any) -> bool:
    """Whether what was read of JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _absorb(digest: Any, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little") + part)


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def _sync(path: os.PathLike) -> None:
    """Returns once the disk holds a file's content, or the names in a directory."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)

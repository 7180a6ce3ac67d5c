"""What a run has committed: by path, the sha256 of every file that something follows from, in `commits.json`.

What is not in there is not committed, and is made again. What lies there with other bytes is not believed: whoever goes
on with a run, or looks at it, is told before anything is written. The hash of a file is announced before the file takes
its place, and stands alone afterwards, so that a process may be killed in between.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from etils import epath

from ratchet.train.buckets import read
from ratchet.train.files import typed, whole
from ratchet.train.together import ALONE, Together

FILE = "commits.json"
LOOKS = 3
"""Times that a file is compared before it counts as altered: a process at work may be replacing it and its commit."""


class AlteredError(ValueError):
    """A file of a run is not what was committed: one line that says which, and how to mend it."""


class _Known(NamedTuple):
    """The sha256 by path, relative to the run's directory: of the `files` that are committed, and of the one that is
    announced (`coming`)."""

    files: dict[str, str]
    coming: dict[str, str]


class Commits:
    """The commits of the run in a directory. They are read anew each time, since another process may be at work.

    Processes that go on with a run `together` make the same calls: the first one decides what is there, and writes.
    """

    def __init__(self, directory: epath.PathLike, together: Together = ALONE):
        self._directory, self._together = epath.Path(directory), together

    def knows(self, path: epath.Path) -> bool:
        """Whether a path was committed, whether it is there or not."""
        name = self._name(path)
        return self._together.decided(f"whether {name} was committed", lambda: name in self._known().files)

    def has(self, path: epath.Path) -> bool:
        """Whether a file, or a directory of weights, is committed and there."""
        name = self._name(path)
        return self._together.decided(
            f"whether {name} is there", lambda: name in self._known().files and path.exists()
        )

    def holds(self, path: epath.Path, entry: str) -> bool:
        """Whether the committed JSON at `path` has an entry when the first process comes here: others may come later,
        when that one has added it. Raises AlteredError as `read` does."""
        return self._together.decided(
            f"whether {self._name(path)} holds {entry}", lambda: entry in self.read(path)
        )

    def within(self, place: epath.Path) -> list[epath.Path]:
        """The paths that are committed in a directory, whether they are there or not."""
        name = self._name(place)
        listed = lambda: [n for n in sorted(self._known().files) if n.startswith(f"{name}/")]
        return [self._directory / n for n in self._together.decided(f"what {name} holds", listed)]

    def once(self, path: epath.Path, make: Callable[[], Any]) -> Any:
        """The committed JSON at `path`, made first when it is missing. Raises AlteredError when what is there, or what
        is made again, is not what was committed."""
        if not self.has(path):
            content = _encoded(make())
            self.keep(path, sha256(content), lambda: self._write(path, content))
        return self.read(path)

    def write(self, path: epath.Path, value: Any) -> None:
        """Commits JSON, also in place of another that was committed. A reader sees all of it or nothing."""
        content, name = _encoded(value), self._name(path)

        def same() -> bool:
            known = self._known().files.get(name)
            there = _bytes(path)
            return there is not None and known == sha256(content) == sha256(there)

        if not self._together.decided(f"whether {name} is the same", same):
            self._commit(path, sha256(content), lambda: self._write(path, content))

    def keep(self, path: epath.Path, digest: str, write: Callable[[], Any]) -> None:
        """Commits what `write` puts there, in every process, and whose hash is `digest`. Raises AlteredError, before it
        is written, when something else was committed."""
        self._must_be(path, digest)
        self._commit(path, digest, write)

    def adopt(self, place: epath.Path, files: Iterable[epath.Path]) -> None:
        """Commits files that are there already, as they will lie in the directory `place`. Raises AlteredError when
        other bytes were committed."""
        found = {place / file.name: sha256(file.read_bytes()) for file in files}
        for path, digest in found.items():
            self._must_be(path, digest)
        added = {self._name(path): digest for path, digest in found.items()}
        self._save(lambda: (self._settled() | added, {}))

    def read(self, path: epath.Path) -> Any:
        """The JSON that was committed at `path`. Raises AlteredError when something else lies there, or nothing."""
        content = self._content(path)
        if content is None and not path.exists():
            raise AlteredError(f"{path}: the file is missing; `ratchet resume {typed(self._directory)}` makes it again")
        if content is None:
            raise AlteredError(self.line_about(self._name(path)))
        return json.loads(content)

    def confirm(self, path: epath.Path, digest: str) -> None:
        """Raises AlteredError when what lies at `path`, whose hash is `digest`, is not what was committed."""
        if self._known().files.get(self._name(path)) != digest:
            raise AlteredError(self.line_about(self._name(path)))

    def altered(self) -> list[str]:
        """The paths of committed files that are there with other bytes. When commits.json itself is missing or damaged,
        it is the only one. Directories of weights, whose names have no ending, are left to whoever reads them."""
        try:
            known = self._known()
        except AlteredError:
            return [FILE]
        if not known.files and not known.coming:
            return [FILE]
        places = {name: self._directory / name for name in sorted(known.files)}
        there = {name: path for name, path in places.items() if path.suffix and path.exists()}
        return [name for name, path in there.items() if self._content(path, known) is None]

    def missing(self) -> list[str]:
        """The paths of committed files, and directories of weights, that are not there; none where commits.json cannot
        be read."""
        absent = lambda names: [name for name in sorted(names) if not (self._directory / name).exists()]
        try:
            gone = absent(self._known().files)
            return absent({*gone} & self._known().files.keys()) if gone else []  # a process may have put them there
        except AlteredError:
            return []

    def check(self) -> None:
        """Raises AlteredError, which names the first of the altered files, when there are any."""
        if found := self.altered():
            listed = f"; {len(found) - 1} more are listed by `ratchet status {typed(self._directory)}`"
            raise AlteredError(self.line_about(found[0]) + (listed if found[1:] else ""))

    def line_about(self, name: str) -> str:
        """What is said about an altered or missing file: which it is, and how to mend it."""
        path = self._directory / name
        if name == FILE:
            return f"{path}: it is missing or damaged, and says what was committed; put it back, or start a new run"
        if name == "config.json":
            return f"{path}: it is not what the run was made with; put it back, or start a new run"
        if not path.exists():
            return f"{path}: it is missing; `ratchet resume {typed(self._directory)}` makes it again"
        return (
            f"{path}: it is not what was committed; put it back, or remove it, and "
            f"`ratchet resume {typed(self._directory)}` makes it again"
        )

    def forget(self, path: epath.Path) -> None:
        """Takes out a file, or what is committed in a directory."""
        name = self._name(path)
        self._save(lambda: ({n: d for n, d in self._settled().items() if not _is_part(n, name)}, {}))

    def inherit(self, other: "Commits", path: epath.Path) -> None:
        """Commits a copy of a file or directory of another run, which lies at the same place in this one, as it was
        committed there."""
        name = self._name(path)
        copied = {n: digest for n, digest in other._settled().items() if _is_part(n, name)}
        self._save(lambda: (self._settled() | copied, {}))

    def agrees(self, other: "Commits", path: epath.Path) -> bool:
        """Whether another run has committed the same as this one wherever both have committed something in the
        directory `path`."""
        own, others, name = self._settled(), other._settled(), self._name(path)
        return all(own[n] == others[n] for n in own.keys() & others.keys() if _is_part(n, name))

    def _content(self, path: epath.Path, known: _Known | None = None) -> bytes | None:
        """The bytes at `path` if they are those that were committed or are announced, else None. What is `known` may be
        out of date: then it is read anew."""
        for _ in range(LOOKS):
            content = _bytes(path)
            known, name = known or self._known(), self._name(path)
            if content is not None and sha256(content) in (known.files.get(name), known.coming.get(name)):
                return content
            known = None
        return None

    def _must_be(self, path: epath.Path, digest: str) -> None:
        if self._known().files.get(self._name(path), digest) != digest:
            raise AlteredError(
                f"{path}: made again, it is not what was committed, from which the rest was made; put that back, or "
                "start a new run"
            )

    def _commit(self, path: epath.Path, digest: str, write: Callable[[], Any]) -> None:
        announced = {self._name(path): digest}
        self._save(lambda: (self._settled(), announced))
        write()
        self._save(lambda: (self._known().files | announced, {}))

    def _known(self) -> _Known:
        path = self._directory / FILE
        if not path.exists():
            return _Known({}, {})
        try:
            said = json.loads(_bytes(path) or b"")
            known = _Known(said["files"], said["coming"])
            intact = said["sha256"] == sha256(_encoded(known._asdict()))
        except (ValueError, LookupError, TypeError, RecursionError):
            intact = False
        if not intact:
            raise AlteredError(self.line_about(FILE))
        return known

    def _settled(self) -> dict[str, str]:
        """The hashes by path, with an announced one where the process was killed after its file took its place."""
        known = self._known()
        there = {name: self._directory / name for name in known.coming}
        done = {n for n, path in there.items() if path.is_file() and sha256(read(path)) == known.coming[n]}
        return known.files | {name: known.coming[name] for name in done}

    def _save(self, known: Callable[[], tuple[dict[str, str], dict[str, str]]]) -> None:
        """Writes down the hashes by path, and the one that is announced."""

        def save() -> None:
            files, coming = known()
            said = {"files": dict(sorted(files.items())), "coming": coming}
            _written(self._directory / FILE, _encoded(said | {"sha256": sha256(_encoded(said))}))

        self._together.decided("what is committed", save)

    def _write(self, path: epath.Path, content: bytes) -> None:
        self._together.decided(f"that {self._name(path)} is written", lambda: _written(path, content))

    def _name(self, path: epath.Path) -> str:
        return path.relative_to(self._directory).as_posix()


def _bytes(path: epath.Path) -> bytes | None:
    """What a file holds; None where there is none, or something else lies in its place."""
    try:
        return read(path) if path.exists() else None
    except IsADirectoryError:
        return None


def _is_part(name: str, place: str) -> bool:
    """Whether a path is this file or directory, or lies in it."""
    return name == place or name.startswith(f"{place}/")


def commits_in(stage: epath.Path) -> list[epath.Path]:
    """The files that commit the units in the directory of a stage, in order."""
    return sorted(stage.glob("unit-*.json")) if stage.exists() else []


def units_in(stage: epath.Path) -> list[str]:
    """The hashes of those of them whose units are there."""
    return [sha256(read(commit)) for commit in commits_in(stage) if commit.with_suffix(".array_record").exists()]


def strange_units(stage: epath.Path, units: Sequence[str]) -> list[epath.Path]:
    """The files in the directory of a stage that differ from the commits of its units, of which these are the hashes in
    order, or are gone: a unit's commit or, where that is right, its records. Units beyond these differ too."""
    strange = []
    for number, digest in enumerate(units):
        commit = stage / f"unit-{number:05d}.json"
        records = commit.with_suffix(".array_record")
        if not commit.exists() or sha256(read(commit)) != digest:
            strange.append(commit)
        elif not records.exists():
            strange.append(records)
    more = commits_in(stage)[len(units) :]
    return strange + [commit for commit in more if commit.with_suffix(".array_record").exists()]


def sha256(content: bytes) -> str:
    """The sha256 of bytes in hex digits."""
    return hashlib.sha256(content).hexdigest()


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _written(path: epath.Path, content: bytes) -> None:
    with whole(path) as fresh:
        fresh.write_bytes(content)

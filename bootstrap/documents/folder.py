"""The files of a folder and of those below it."""

import fnmatch
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from ratchet.bootstrap.documents.account import LeftOut, because

_TOKEN = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^]]*\]|.", re.DOTALL)
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
_MEANS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matcher(globs: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a path in a folder matches one of some patterns.

    `*`, `?`, `[abc]` and `[!abc]` stand for anything but a slash and `**` for folders, as in a shell; a pattern without
    a slash is about names in all folders.
    """
    made = ["".join(map(_expression, _TOKEN.findall(g if "/" in g else f"**/{g}"))) for g in globs]
    pattern = re.compile("|".join(f"(?:{m})" for m in made) or "(?!)", re.DOTALL)
    return lambda path: pattern.fullmatch(path) is not None


def _expression(token: str) -> str:
    """A token of a pattern as a regular expression."""
    if len(token) > 1 and token.startswith("["):
        return f"(?!/){fnmatch.translate(token)[4:-3]}"  # of "(?s:[^abc])\Z", "[^abc]"
    return _MEANS.get(token) or re.escape(token)


def files(folder: epath.Path, wanted: Callable[[str], bool], hidden: bool = False) -> Iterator[epath.Path | LeftOut]:
    """The files of a folder whose path in it is `wanted`, in order; then what could not be looked at, and the others.

    What several paths lead to is found once, under a path without links where there is one; what is neither file nor
    folder is passed by, and unless they are asked for, so are `hidden` files and folders, whose names begin with a dot.
    """
    found, left_out, seen, plain, links = [], [], {None}, [folder], []
    while plain or links:
        path = (plain or links).pop()
        name = spelled(path.relative_to(folder))
        if path.name.startswith(".") and path != folder and not hidden:
            left_out.append(LeftOut(name, "hidden", "other"))
            continue
        try:
            entries = _entries(path)
            if entries is None and not wanted(name):
                left_out.append(LeftOut(name, path.suffix or "without a suffix", "other"))
                continue
            target = identity(path)
        except OSError as error:
            left_out.append(LeftOut(name, because(error)))
            continue
        if target in seen:
            continue
        seen.add(target)
        if entries is None:
            found.append(path)
        for entry in entries or ():
            (links if os.path.islink(entry) else plain).append(entry)
    yield from sorted(found)
    yield from left_out


def spelled(path: epath.Path) -> str:
    """A path as one line of text; bytes of it that are no UTF-8 are spelled `\\xe9`, and line breaks `\\n`."""
    text = os.fsencode(path.as_posix()).decode(errors="backslashreplace")
    return _UNSEEN.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def _entries(path: epath.Path) -> list[epath.Path] | None:
    """What a folder holds, the last first; None of what is no folder."""
    return sorted(path.iterdir(), reverse=True) if path.is_dir() else None


def identity(path: epath.Path) -> object:
    """What a path leads to, which is the same for all links to it; None if that is neither file nor folder."""
    where = os.fspath(path)
    if "://" in where:  # object stores have neither links nor pipes
        return where
    found = os.stat(where)
    readable = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return (found.st_dev, found.st_ino) if readable else None

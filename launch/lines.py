"""What is said to people a line at a time, whatever it names: a path or a setting may hold line breaks."""

import contextlib
import os
import re
import sys
import textwrap
import threading
import unicodedata
from collections.abc import Iterator, Sequence

_BREAKS = ("Cc", "Zl", "Zp")
"""Kinds of letters that end a line or tell a terminal what to do."""
PATIENCE = 10.0
"""Seconds of silence after which it is told what a command waits for."""


class UserError(ValueError):
    """Something the user can mend; shown as one line, with what there is `listed` below it."""

    def __init__(self, line: str, listed: Sequence[str] = ()):
        super().__init__(line)
        self.listed = listed


def one_line(text: str) -> str:
    """The text with what would break it or steer a terminal spelled out, a line break as `\\n`."""
    spelled = lambda letter: letter.encode("unicode_escape").decode()
    return "".join(spelled(one) if unicodedata.category(one) in _BREAKS else one for one in text)


def tell(*lines: str) -> None:
    """Prints lines on standard error, if anybody hears them."""
    with contextlib.suppress(OSError):  # a terminal that is gone hears nothing
        print(*map(one_line, lines), sep="\n", file=sys.stderr, flush=True)


def say(line: str, *below: str) -> None:
    """Tells in a line what a command has come to, and what is listed below it. In a terminal, a line that is longer
    than the terminal is wide ends between words, and within no `command` that may be copied."""
    said = one_line(f"ratchet: {line}")
    if width := _width():
        kept = re.sub("`[^`]*`", lambda command: command.group().replace(" ", "\0"), said)
        parts = textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)
        tell(*(part.replace("\0", " ") for part in parts), *below)
    else:
        tell(said, *below)


def _width() -> int:
    """Columns of the terminal that hears what is told; 0 where none does, or one that does not know its width."""
    with contextlib.suppress(OSError):  # it may be gone
        if sys.stderr and sys.stderr.isatty():  # a process may have been begun without a standard error
            return os.get_terminal_size(sys.stderr.fileno()).columns
    return 0


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Within, it is told once what is waited for, if that takes long."""
    timer = threading.Timer(PATIENCE, say, [f"waiting for {what}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Within, nothing that a library says reaches the standard error, if there is one, however it says it."""
    try:
        kept = os.dup(2)
    except OSError:
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr.flush()
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)

"""What commands print on: a console for people, one JSON object for programs."""

import codecs
import contextlib
import io
import json
import logging
import os
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

PLAIN = dict(zip("–—−·•━─│…“”‘’→←≤≥λτεκ×╭╮╰╯", "---..=-|.\"\"''><<>ltekx++++", strict=True))
"""What stands for a letter that a terminal does not have; for all others a question mark does."""


def speak_plainly() -> None:
    """Has letters that a terminal cannot show, and halves of letters, replaced instead of raising an error."""
    codecs.register_error("ratchet", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ratchet")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def make_console(aside: bool = False) -> Console:
    """A console wide enough for the table where there is no terminal to fit into; `aside`, on standard error, it leaves
    standard output to JSON."""
    console = Console(stderr=aside)
    return console if console.is_terminal else Console(stderr=aside, width=max(console.width, 132))


def ends_as_found() -> Callable[[int], None]:
    """What ends the process whatever its other threads do, and leaves a terminal as it is now, with its cursor shown:
    a bar may have hidden that, and who waits for one key reads without lines and echo."""
    found = _terminal()

    def end(status: int) -> None:
        with contextlib.suppress(OSError):
            Console(file=sys.__stdout__).show_cursor()
            sys.__stdout__.flush()
        if found and _terminal() != found:
            termios.tcsetattr(0, termios.TCSANOW, found)
        os._exit(status)

    return end


def _terminal() -> list[Any]:
    """How the terminal on standard input is set; [] where there is none."""
    try:
        return termios.tcgetattr(0)
    except termios.error:
        return []


def print_json(found: Mapping[str, Any]) -> None:
    """What a command found, as the one JSON object that `--json` promises."""
    print(json.dumps(found, indent=1))


def keep_compiled() -> None:
    """Has JAX keep compiled programs for the next start, where JAX_COMPILATION_CACHE_DIR says or with the user's other
    caches."""
    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ratchet" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def quiet() -> None:
    """Prepares a command: compiled programs are kept, and what libraries say beside their errors is not for users."""
    keep_compiled()
    stores = ("aiobotocore", "botocore", "gcsfs", "google", "s3fs")
    for chatty in ("absl", "asyncio", "orbax", *stores):  # they log every error that they raise as well, a page each
        logging.getLogger(chatty).setLevel(logging.CRITICAL)

"""The `ratchet` command: what it can do, and how it ends."""

import contextlib
import difflib
import errno
import importlib.metadata
import os
import pkgutil
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence

from ratchet.launch import HELP, commands
from ratchet.launch.commands import COMMANDS
from ratchet.launch.lines import UserError, say
from ratchet.launch.output import ends_as_found, speak_plainly
from ratchet.train import stopping
from ratchet.train.buckets import StoreError, may_come_back, reason

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says of a disk on which there is no room."""
PAUSE = 10.0
"""Seconds before a process ends that found its device busy: who starts it again at once uses up the restarts that a
platform allows."""
_ELSEWHERE = {
    errno.EISDIR: "a directory lies where a file belongs",
    errno.ENOTDIR: "a file lies where a directory belongs",
}
"""What it means that something of the other kind lies in a place."""


def usage() -> str:
    """Every command, what it takes and what it does, in 80 columns."""
    both = [(f"  ratchet {name} {takes}".rstrip(), does) for name, (_, takes, does) in COMMANDS.items()]
    listed = "".join(f"{line}\n      {does}\n" for line, does in both)
    return (
        f"ratchet: grow a language model on reviewed simulations of what it should do\n\n{listed}\n"
        "`ratchet COMMAND --help` lists a command's options, `ratchet run RECIPE --help`\n"
        "every setting; --version says the version. All take --json: one JSON object;\n"
        "of run, resume, watch and chat one a line."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a mistake of the user, 42 for a run that is
    to be started again, 129, 130 or 143 when stopped by SIGHUP, Ctrl-C or, where that is not 42, SIGTERM."""
    speak_plainly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = _command(words)
    if "--version" in words or words[:1] in (["version"], ["-V"]):
        print(f"ratchet {importlib.metadata.version('ratchet')}")
        return 0
    if not name:
        print(usage())
        return 0
    try:
        if name not in COMMANDS:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            nearest = f"the nearest is {close[0]}; " if close else ""
            raise ValueError(f"unknown command {name!r}; {nearest}there are {', '.join(COMMANDS)}")
        with _heeding_signals(name):
            return _called(name, rest)
    except SystemExit as helped:
        return helped.code or 0
    except BrokenPipeError:  # nobody reads what it says
        return 128 + signal.SIGPIPE
    except stopping.Ends as ended:
        say(str(ended))
        return ended.status
    except UserError as error:
        say(str(error), *error.listed)
        return 2
    except ValueError as error:
        say(str(error))
        return 2
    except OSError as error:
        say(_said_by_the_system(error))
        return stopping.AGAIN if isinstance(error, StoreError) and error.again else 1 if error.errno in FULL else 2
    except Exception as error:
        if not (said := reason(error)):
            raise
        say(f"{name}: the bucket failed ({said}); the same command may be given again")
        return stopping.AGAIN if may_come_back(error) else 2
    except stopping.Stopped as stopped:
        say(str(stopped))
        return stopped.status
    except KeyboardInterrupt:  # of a terminal that gives single keys, Ctrl-C is one of them
        say("stopped by SIGINT")
        return 130


def _called(name: str, rest: list[str]) -> int:
    """The exit status of a command. Where it finds no device, it says so; a busy one is waited for a while."""
    try:
        return _function(name)(rest)
    except RuntimeError as error:
        if "Unable to initialize backend" not in str(error):
            raise
        busy = re.search(r"in use|busy|UNAVAILABLE|ALREADY_EXISTS", str(error))
        mend = "another process has it, or it comes back" if busy else "see to its driver, and to JAX_PLATFORMS"
        say(f"{name}: there is no device to work with ({' '.join(str(error).split())[:200]}); {mend}")
    time.sleep(PAUSE if busy else 0)
    return stopping.AGAIN if busy else 2


def _said_by_the_system(error: OSError) -> str:
    """Which file an error is about and, where these are known, what the system says of it and what to do."""
    said = error.strerror or str(error)
    if error.strerror and error.filename:
        said = f"{os.fspath(error.filename)}: {said}"
    if error.errno in FULL:
        return f"{said}; free some space"
    if error.errno in _ELSEWHERE:
        return f"{said}; {_ELSEWHERE[error.errno]}; move it away, and the same command may be given again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{said}; give this user the right to read and write there, or name another place"
    return said


def _function(name: str) -> Callable[[list[str]], int]:
    """What a command does with the words after its name; it returns the exit status."""
    return pkgutil.resolve_name(f"{commands.__name__}.{COMMANDS[name][0]}")


def _heeding_signals(name: str) -> contextlib.AbstractContextManager:
    """Has a signal end a command at once. What works on a run stays until its step is done, from when it begins."""
    advice = "the same command may be given again" if name in ("run", "resume", "compare") else ""
    return stopping.heeded(say, patient=False, end=ends_as_found(), advice=advice)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command and the words after it; help may be asked for before or after, or as the command `help`."""
    asked = [word for word in words if word in HELP or word == words[0] == "help"]
    others = [word for word in words if word not in asked]
    return (others[0], [*["--help"][: len(asked)], *others[1:]]) if others else ("", [])

"""The `ratchet` command: what it can do, and how it ends."""

import contextlib
import difflib
import importlib.metadata
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from ratchet.launch import HELP, commands
from ratchet.launch.output import speak_plainly
from ratchet.train import stopping
from ratchet.train.buckets import reason

COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("start:run", "RECIPE [FOLDER] [--out DIR] [--config FILE] [--SETTING VALUE ...]", "a new run"),
    "preview": (
        "preview:preview", "RECIPE [FOLDER]|DIR [--tasks N] [--SETTING VALUE ...]",
        "a few tasks through simulate and review, with verdicts; writes nothing",
    ),
    "resume": ("start:resume", "DIR [--generations N]", "go on from whatever is committed, or for more generations"),
    "status": ("look:status", "DIR", "stages, units done, table of generations"),
    "watch": ("watch:watch", "DIR [DIR ...]", "the same, live, with rates, acceptance and where the time goes"),
    "ui": (
        "ui:ui", "DIR [DIR ...] [--port 8001]",
        "a page on this machine: reports live, transcripts to search and label",
    ),
    "chat": ("models:chat", "DIR [--generation N]", "talk to the newest promoted generation, line by line"),
    "show": ("show:show", "DIR ID", "one transcript with its whole lineage"),
    "report": ("show:report", "DIR", "rebuild the page"),
    "evaluate": ("measure:evaluate", "DIR --generation N", "evaluate a generation again: the same numbers"),
    "compare": (
        "measure:compare", "DIR ... [--generation N] --vary SETTING VALUE VALUE ...",
        "arms from one generation's data, one table",
    ),
    "label": ("labels:label", "DIR [--generation N]", "say of answers whether they are right, by one key each"),
    "calibrate": (
        "labels:calibrate", "DIR [--labels FILE] [--generation N]",
        "the review against labels: agreement, corrected rate, certificate",
    ),
    "recipes": ("look:recipes", "", "what there is to run, how long it takes, what it should reach"),
    "preflight": (
        "measure:preflight", "RECIPE [--topology v5e:4x4] [--step sample|score|generation]",
        "compile for TPUs without one: memory, traffic, bound",
    ),
    "submit": (
        "submit:submit", "RECIPE --to gke|xpk|tpu-vm|slurm|local [--dry-run]",
        "a run for several processes, here or on a platform",
    ),
    "import": ("models:import_model", "MODEL [--template FILE]", "read a model that others trained, say what it is"),
    "serve": (
        "serve:serve", "DIR [--generation N] | --base MODEL [--port 8000]",
        "answer OpenAI's web API: chat, completions, log-probabilities, tokens",
    ),
    "export": (
        "models:export", "DIR --generation N --to FOLDER",
        "write a folder that transformers loads; for runs with --base or of qwen3-*",
    ),
}  # fmt: skip
"""By name: the function of `launch.commands` that does it, what it takes, and what it does, in words for people.

A function is imported when its command is given: all of them together take seconds."""


def usage() -> str:
    """Every command, what it takes and what it does, in 80 columns."""
    both = [(f"  ratchet {name} {takes}".rstrip(), does) for name, (_, takes, does) in COMMANDS.items()]
    listed = "".join(f"{line}\n      {does}\n" for line, does in both)
    return (
        f"ratchet: grow a language model on reviewed simulations of what it should do\n\n{listed}\n"
        "`ratchet COMMAND --help` lists a command's options, `ratchet run RECIPE --help`\n"
        "every setting; --version says the version. All but chat, label, serve, submit\n"
        "and ui take --json: one JSON object; of run, resume and watch one a line."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a mistake of the user, 42 for a run that is
    to be started again, 129, 130 or 143 when stopped by SIGHUP, Ctrl-C or SIGTERM."""
    speak_plainly()
    words = list(sys.argv[1:] if arguments is None else arguments)
    name, rest = _command(words)
    if "--version" in words:
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
            return _function(name)(rest)
    except SystemExit as helped:
        return helped.code or 0
    except BrokenPipeError:  # nobody reads what it says
        return 128 + signal.SIGPIPE
    except stopping.Ends as ended:
        _say(str(ended))
        return ended.status
    except (ValueError, OSError) as error:
        _say(str(error))
        return 2
    except Exception as error:
        if not (said := reason(error)):
            raise
        _say(f"{name}: the bucket failed ({said}); the same command may be given again")
        return 1
    except stopping.Stopped as stopped:
        _say(str(stopped))
        return stopped.status
    except KeyboardInterrupt:
        _say("stopped")
        return 130


def _function(name: str) -> Callable[[list[str]], int]:
    """What a command does with the words after its name; it returns the exit status."""
    return pkgutil.resolve_name(f"{commands.__name__}.{COMMANDS[name][0]}")


def _heeding_signals(name: str) -> contextlib.AbstractContextManager:
    """Has a command end as it should when a signal asks it to: `run`, `resume` and `compare` after a step, others at
    once. Those that talk to people take Ctrl-C themselves. A server ends by itself, once what it has begun is answered,
    and `submit` passes signals on to what it has started."""
    if name in ("serve", "submit", "ui"):
        return contextlib.nullcontext()
    talks = name in ("chat", "label", "watch")
    asking = [number for number in stopping.ASKING if not talks or number != signal.SIGINT]
    return stopping.heeded(_say, patient=name in ("run", "resume", "compare"), end=_end, asking=asking)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone hears nothing
        print("ratchet:", *line.splitlines(), file=sys.stderr, flush=True)


def _end(status: int) -> None:
    """Ends the process whatever its other threads do, with the cursor shown that a bar may have hidden."""
    with contextlib.suppress(OSError):
        Console(file=sys.__stdout__).show_cursor()
        sys.__stdout__.flush()
    os._exit(status)


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command and the words after it; help may be asked for before or after, or as the command `help`."""
    asked = [word for word in words if word in HELP or word == words[0] == "help"]
    others = [word for word in words if word not in asked]
    return (others[0], [*["--help"][: len(asked)], *others[1:]]) if others else ("", [])

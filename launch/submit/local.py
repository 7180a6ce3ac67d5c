"""This machine: several processes of one run, watched, started again, and ended together."""

import contextlib
import itertools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ratchet.launch.lines import UserError, say
from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import Submission
from ratchet.train.stopping import passed_on

_DEVICES = Path("/dev")
_GPU = re.compile(r"\d+$|GPU-|MIG-")
"""How CUDA_VISIBLE_DEVICES names a GPU."""
_ASKED = 6
"""How often the usual time processes have that were all asked to end."""
_LOOK = 0.05
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Local(Submission):
    """Several processes on this machine, which show what the first of them says."""

    processes: int = 2
    """So many processes work on the run together."""
    devices: int = 1
    """CPU devices of each, where JAX finds no others."""

    def __post_init__(self):
        super().__post_init__()
        if min(self.processes, self.devices) < 1:
            raise UserError(f"submit: --processes {self.processes}, --devices {self.devices}; both must be at least 1")


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits, in seconds."""

    grace: float = 10.0
    """From SIGTERM to SIGKILL of processes whose peer has ended with an error."""
    pause: float = 2.0
    """Before all start again: what the last ones held, such as a port, may not be free at once."""


def manifest(asked: Local) -> str:
    """The commands as lines for a shell."""
    about = f"# {asked.processes} processes at once, PORT being one that is free; `ratchet submit` also watches them."
    environment = [f"{name}={value}" for name, value in _environment(asked).items()]
    lines = [about, *(shlex.join([*environment, *words]) for words in _commands(asked, "PORT"))]
    return "".join(f"{line}\n" for line in lines)


def submit(asked: Local) -> int:
    """Runs the processes until all have ended; returns the exit code, as a shell counts it."""
    return supervise(lambda: _commands(asked, _free_port()), _environment(asked), asked.restarts)


def supervise(
    commands: Callable[[], Sequence[Sequence[str]]],
    environment: Mapping[str, str],
    restarts: int,
    patience: Patience = Patience(),
) -> int:
    """Starts the commands, all of them again when one asks for it or is killed, `restarts` times at most; returns the
    exit code of the first that ended with another than 0, as a shell counts it.

    The first command's output is shown; of another the last line, when it is the first to fail. Signals that ask this
    process to end are passed on, and nothing starts again after them.
    """
    for restart in range(restarts + 1):
        with tempfile.TemporaryDirectory() as aside, _started(commands(), environment, Path(aside)) as group:
            failed = group.wait(patience.grace)
            code, said, trace = group.code(failed), group.last_line(failed), group.trace(failed)
        if group.asked:
            return code and 128 + group.asked
        if code == 0:
            return 0
        say(f"submit: process {failed} has ended with exit code {code}{': ' + said if said else ''}", *trace)
        if not starting.is_worth_repeating(code):
            return code
        if restart < restarts:
            say(f"submit: all start again, {restart + 1} of {restarts}")
            time.sleep(patience.pause)
    say(f"submit: --restarts {restarts} are used up")
    return code


@dataclass
class _Group:
    """Processes that live and die together."""

    logs: list[Path | None]
    """Where each says what it says; None is shown."""
    processes: list[subprocess.Popen] = field(default_factory=list)
    asked: int = 0
    """The signal that asked this process to end; 0 while there is none."""

    def wait(self, grace: float) -> int:
        """Waits until all have ended; once one has failed the others are asked to end, and killed after `grace`
        seconds, or later where all were asked to end, and a report is drawn. Returns the number of the process that
        failed first, 0 where none has."""
        failed, deadline = None, float("inf")
        while self.running():
            if failed is None and (failed := self._failed()) is not None:
                deadline = time.monotonic() + grace * (_ASKED if self.asked else 1)
                if not self.asked:  # a second signal would end them at once
                    self.send(signal.SIGTERM)
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(_LOOK)
        return (self._failed() if failed is None else failed) or 0

    def code(self, number: int) -> int:
        """The exit code of a process that has ended, 128 and the signal's number where one killed it."""
        code = self.processes[number].returncode
        return 128 - code if code < 0 else code

    def last_line(self, number: int) -> str:
        """The last line of a process that is not shown; "" of one that is."""
        log = self.logs[number]
        return (log.read_text(errors="replace").splitlines() or [""])[-1] if log else ""

    def trace(self, number: int) -> list[str]:
        """The traceback that a process which is not shown ended with, in lines; none where it did not."""
        text = log.read_text(errors="replace") if (log := self.logs[number]) else ""
        begins = text.rfind("Traceback (most recent call last)")
        return text[begins:].splitlines() if begins >= 0 else []

    def running(self) -> list[subprocess.Popen]:
        """The processes that have not ended."""
        return [process for process in self.processes if process.poll() is None]

    def send(self, number: int) -> None:
        """Sends a signal to all that are running."""
        for process in self.running():
            process.send_signal(number)

    def pass_on(self, number: int) -> None:
        """Handles a signal to this process."""
        self.asked = number
        self.send(number)

    def _failed(self) -> int | None:
        return next((number for number, process in enumerate(self.processes) if process.poll()), None)


@contextlib.contextmanager
def _started(commands: Sequence[Sequence[str]], environment: Mapping[str, str], aside: Path) -> Iterator[_Group]:
    """The processes of commands, to which signals are passed on; none is left afterwards.

    Each leads a group of its own, so that a terminal's Ctrl-C reaches it once, through this process.
    """
    logs = [None, *(aside / f"{number}.log" for number in range(1, len(commands)))]
    group = _Group(logs)
    try:
        with passed_on(group.pass_on):
            for words, log in zip(commands, logs, strict=True):
                with log.open("wb") if log else contextlib.nullcontext() as out:
                    started = subprocess.Popen(
                        words, env=os.environ | environment, stdout=out, stderr=out, process_group=0
                    )
                group.processes.append(started)
            if group.asked:  # while they were starting
                group.send(group.asked)
            yield group
    finally:
        for process in group.running():
            process.kill()
            process.wait()


def _commands(asked: Local, port: int | str) -> list[list[str]]:
    """The command of each process."""
    joins = [f"127.0.0.1:{port}/{asked.processes}/{number}" for number in range(asked.processes)]
    words = [starting.words(asked.config, asked.directory, join) for join in joins]
    shares = _gpus_of(asked.processes)
    own = [["env", f"JAX_LOCAL_DEVICE_IDS={share}"] if share else [] for share in shares]
    start = [sys.executable, "-m", "ratchet.launch"]
    return [[*before, *start, *of_one] for before, of_one in zip(own, words, strict=True)]


def _gpus_of(processes: int) -> list[str]:
    """The numbers of the GPUs that each process takes, such as ["0,1", "2,3"], of those that it sees; "" for each where
    there are none, or none are to be used: every process would take all. Raises UserError for more processes than
    GPUs."""
    platforms, seen = os.environ.get("JAX_PLATFORMS", ""), os.environ.get("CUDA_VISIBLE_DEVICES")
    used = not platforms or any(name in platforms for name in ("cuda", "gpu"))
    named = itertools.takewhile(_GPU.match, (seen or "").replace(" ", "").split(","))  # as CUDA does
    there = len(list(_DEVICES.glob("nvidia[0-9]*") if seen is None else named))
    count = there if used else 0
    if 0 < count < processes:
        raise UserError(f"submit: {processes} processes do not share {count} GPUs; give --processes {count} or fewer")
    parts = [range(count * n // processes, count * (n + 1) // processes) for n in range(processes)]
    return [",".join(map(str, part)) for part in parts]


def _environment(asked: Local) -> dict[str, str]:
    """As many threads for any number of processes: on them depends how XLA splits what it computes."""
    threads = max(os.cpu_count() or 1, asked.processes * asked.devices)
    return {"JAX_NUM_CPU_DEVICES": str(asked.devices), "NPROC": str(threads)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

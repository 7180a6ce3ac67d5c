"""A server of a command, which ends as a command does when a signal asks it to."""

import contextlib
import socket

import uvicorn

from ratchet.launch import output
from ratchet.launch.lines import say
from ratchet.train.stopping import Stopped, passed_on


class _Server(uvicorn.Server):
    """A server that leaves signals to others."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def answer(config: uvicorn.Config, listener: socket.socket) -> int:
    """Answers what comes to a listener until a signal asks it to end, and what it has begun by then; a second signal
    ends the process at once. Returns the exit status of a process that such a signal has ended."""
    server, statuses, end = _Server(config), [], output.ends_as_found()

    def stop(number: int) -> None:
        say(str(stopped := Stopped(number)))
        if statuses:
            end(stopped.status)
        statuses.append(stopped.status)
        server.should_exit = True

    with passed_on(stop):
        server.run([listener])
    return statuses[0] if statuses else 0

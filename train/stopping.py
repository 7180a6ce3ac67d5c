"""How a process is asked to end: by SIGTERM, with which clusters announce that they take a machine back, by Ctrl-C, or
by SIGHUP when its terminal goes.

Python calls its handlers between two of its own instructions, which may be minutes apart while a step runs or a program
compiles. A thread that reads the numbers of signals from a pipe answers at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask a process to end; under nohup, which has SIGHUP ignored, that one does not."""
AGAIN = 42
"""The exit status of a process that is to be started again: what it did is committed, and it goes on from there."""


class Ends(RuntimeError):
    """What ends a process with an exit `status`; its message says why, in a line."""

    status = 1


class Stopped(BaseException):
    """The process was asked to end by a signal of this number. Like KeyboardInterrupt, it is no error that whoever
    handles errors may take. `advice` says how to go on, if that is possible."""

    def __init__(self, number: int, advice: str = ""):
        super().__init__(f"stopped by {signal.Signals(number).name}" + (f"; {advice}" if advice else ""))
        self.number, self._advice = number, advice

    @property
    def status(self) -> int:
        """The exit status of a process that such a signal has ended: AGAIN where SIGTERM took a machine away from what
        can go on elsewhere."""
        return AGAIN if self._advice and self.number == signal.SIGTERM else 128 + self.number


@contextlib.contextmanager
def heeded(
    say: Callable[[str], None], *, patient: bool, end: Callable[[int], None] = os._exit, asking: Sequence[int] = ASKING
) -> Iterator[None]:
    """Within, a signal of `asking` gets one line at once, by `say`, and ends the work.

    Where `patient`, the first raises Stopped as soon as Python runs in the main thread, or makes a step that is
    `deferred` the last one; the second calls `end` with the exit status. Otherwise the first does so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, _) -> None:
        if patient:
            raise Stopped(number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    listener = threading.Thread(target=_listen, args=(reader, say, patient, end, asking), daemon=True, name="signals")
    listener.start()
    before = _handled(asking, stop)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        listener.join()
        os.close(reader)


def _handled(numbers: Sequence[int], handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Has a handler called for signals; returns those that were there."""
    ignored = {number for number in numbers if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN}
    return {number: signal.signal(number, handler) for number in numbers if number not in ignored}


def _listen(
    reader: int, say: Callable[[str], None], patient: bool, end: Callable[[int], None], asking: Sequence[int]
) -> None:
    """Answers the signals whose numbers come through a pipe, a byte each, until it is closed."""
    while came := os.read(reader, 1):
        if came[0] not in asking:
            continue
        if not patient:
            say(str(Stopped(came[0])))
            end(Stopped(came[0]).status)
        else:
            say("stopping after this step; another signal ends at once")
            patient = False


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], int]]:
    """Within, a signal of ASKING raises nothing. Yields a function that gives the number of the first; 0: none has
    come."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    came: list[int] = []
    before = _handled(ASKING, lambda number, _: came.append(number))
    try:
        yield lambda: came[0] if came else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""How a process ends with an exit status, and how it is asked to: by SIGTERM, with which clusters announce that they
take a machine back, by Ctrl-C, or by SIGHUP when its terminal goes.

Python calls its handlers between two of its own instructions, which may be minutes apart while a step runs or a program
compiles. A thread that reads the numbers of signals from a pipe answers at once.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""The signals that ask a process to end; under nohup, which has SIGHUP ignored, that one does not."""
AGAIN = 42
"""The exit status of a process that is to be started again: what it did is committed, and it goes on from there."""
_PAUSE = 0.01
"""Seconds after which a signal is sent again whose exception was discarded."""


class Ends(RuntimeError):
    """What ends a process with an exit `status`; its message says why, in a line."""

    status = 1


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal of this number. It is no error that whoever handles errors may take, and
    of what is none, asyncio lets only a KeyboardInterrupt through. `advice` says how to go on, if that is possible."""

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
    say: Callable[[str], None], *, patient: bool, end: Callable[[int], None] = os._exit,
    asking: Sequence[int] = ASKING, advice: str = "",
) -> Iterator[None]:  # fmt: skip
    """Within, a signal of `asking` gets one line at once, by `say`, and ends the work.

    Where `patient`, the first raises Stopped as soon as Python runs in the main thread, or makes a step that is
    `deferred` the last one; the second calls `end` with the exit status. Otherwise the first does so. What is said last
    has the `advice` on how to go on.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def stop(number: int, _) -> None:
        if patient and not again.busy:
            raise Stopped(number, advice)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    again = _Again()
    asked = (reader, say, patient, end, asking, again.sent, advice)
    answers = threading.Thread(target=_listen, args=asked, daemon=True, name="signals")
    answers.start()
    before = _handled(asking, stop)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with _raised_again(again):
            yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        answers.join()
        os.close(reader)


def _handled(numbers: Sequence[int], handler: Callable[[int, Any], None]) -> dict[int, Any]:
    """Has a handler called for signals; returns those that were there."""
    ignored = {number for number in numbers if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN}
    return {number: signal.signal(number, handler) for number in numbers if number not in ignored}


@dataclass
class _Again:
    """What sends signals once more. The numbers `sent` are not those of new signals. While it is `busy`, what another
    signal raised would be lost, and it sends one anyway."""

    sent: deque[int] = field(default_factory=deque)
    busy: bool = False

    def send(self, number: int) -> None:
        """Sends a signal to the main thread after a pause, when what discards exceptions has returned. To start a
        `threading.Thread` waits for it, and takes a lock that whatever was interrupted may hold."""
        _thread.start_new_thread(self._later, (number,))

    def _later(self, number: int) -> None:
        time.sleep(_PAUSE)
        self.sent.append(number)
        signal.pthread_kill(threading.main_thread().ident, number)


@contextlib.contextmanager
def _raised_again(again: _Again) -> Iterator[None]:
    """Within, a signal is sent once more when Python discards the Stopped that it raised, as it does with whatever is
    raised in finalizers and in callbacks of the garbage collector."""
    others = sys.unraisablehook

    def discarded(found) -> None:
        if not isinstance(found.exc_value, Stopped):
            others(found)
            return
        again.busy = True
        again.send(found.exc_value.number)
        again.busy = False  # Python looks for signals after calls, and there is none between this and the end

    sys.unraisablehook = discarded
    try:
        yield
    finally:
        sys.unraisablehook = others


def _listen(
    reader: int, say: Callable[[str], None], patient: bool, end: Callable[[int], None], asking: Sequence[int],
    repeated: deque[int], advice: str,
) -> None:  # fmt: skip
    """Answers the signals whose numbers come through a pipe, a byte each, until it is closed; not those that were
    `repeated`."""
    while came := os.read(reader, 1):
        if came[0] not in asking:
            continue
        if came[0] in repeated:
            repeated.remove(came[0])
            continue
        if not patient:
            stopped = Stopped(came[0], advice)
            say(str(stopped))
            end(stopped.status)
        else:
            say("stopping after this step; another signal ends at once")
            patient = False


@contextlib.contextmanager
def passed_on(to: Callable[[int], None]) -> Iterator[None]:
    """Within, a signal of ASKING only calls `to` with its number, and nobody else hears of it."""
    before = _handled(ASKING, lambda number, _: to(number))
    woken = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)


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

"""How a process ends with an exit status, and how it is asked to: by SIGTERM, with which clusters announce that they
take a machine back, by Ctrl-C, or by SIGHUP when its terminal goes.

Python calls its handlers between two of its own instructions, which may be minutes apart while a step runs or a program
compiles. A thread that reads the numbers of signals from a pipe answers at once.
"""

import contextlib
import os
import signal
import sys
import threading
from collections import deque
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
    repeated: deque[int] = deque()
    answers = threading.Thread(
        target=_listen, args=(reader, say, patient, end, asking, repeated), daemon=True, name="signals"
    )
    answers.start()
    before = _handled(asking, stop)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        with _raised_again(repeated):
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


@contextlib.contextmanager
def _raised_again(repeated: deque[int]) -> Iterator[None]:
    """Within, a signal is sent once more when Python discards the Stopped that it raised, as it does with whatever is
    raised in finalizers and in callbacks of the garbage collector. The number sent is added to `repeated`."""
    main, others = threading.main_thread().ident, sys.unraisablehook

    def again(number: int) -> None:
        repeated.append(number)
        signal.pthread_kill(main, number)

    def discarded(found) -> None:
        if isinstance(found.exc_value, Stopped):
            threading.Timer(0.01, again, [found.exc_value.number]).start()  # when the callback has returned
        else:
            others(found)

    sys.unraisablehook = discarded
    try:
        yield
    finally:
        sys.unraisablehook = others


def _listen(
    reader: int, say: Callable[[str], None], patient: bool, end: Callable[[int], None], asking: Sequence[int],
    repeated: deque[int],
) -> None:
    """Answers the signals whose numbers come through a pipe, a byte each, until it is closed; not those that were
    `repeated`."""
    while came := os.read(reader, 1):
        if came[0] not in asking:
            continue
        if came[0] in repeated:
            repeated.remove(came[0])
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

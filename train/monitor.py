"""What watches a training run while it goes on: figures of a step in words, a watchdog, signals to save, a profile."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

import jax
from etils import epath

from ratchet.train import together
from ratchet.train.buckets import Outbox
from ratchet.train.stopping import AGAIN

StepMetrics = dict[str, float]
"""The figures of one step by name, as `trainer` logs them."""

SAVE, STOP = 1, 2
"""What a process may signal to all others, the largest counting: a checkpoint, or a checkpoint and an end."""


def describe(metrics: StepMetrics) -> tuple[str, ...]:
    """A step in short parts, what matters most first: ("loss 1.2340", "gradient 0.51", ...).

    Losses are in nats per token. The share of the devices' peak stands there where it is known, the mass outside the
    kept ids where there is any, and the divergence from the targets where it is not the loss itself.
    """
    loss, divergence, tail = (f"{metrics[name]:.4f}" for name in ("loss", "kl", "tail"))
    return (
        f"loss {loss}",
        f"gradient {metrics['gradient_norm']:.3g}",
        f"rate {metrics['rate']:.3g}",
        f"{metrics['tokens_per_second']:,.0f} tokens/s",
        *([f"mfu {100 * metrics['mfu']:.1f} %"] if "mfu" in metrics else []),
        *([f"kl {divergence}"] if divergence != loss else []),
        *([f"tail {tail}"] if float(tail) else []),
    )


class Watchdog:
    """Ends the process when nothing has happened for too long: a hung collective never returns, and never raises.

    One line says since when and where, and where the other processes are; the stacks of all threads follow, then
    `end(AGAIN)`.
    """

    def __init__(self, minutes: float, what: str, *, clock: Callable[[], float] = time.monotonic,
                 end: Callable[[int], None] = os._exit):
        self._seconds, self._what, self._clock, self._end = 60 * minutes, what, clock, end
        self._together = together.current()
        self._beat = clock(), "before its first step"
        self._heard = self._together.published_by(0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def beat(self, at: str) -> None:
        """Something happened; `at` says where."""
        self._beat = self._clock(), at

    def stalled(self) -> bool:
        """Whether the last beat is longer ago than allowed."""
        return self._clock() - self._beat[0] > self._seconds

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(min(self._seconds / 4, 5.0)):
            self._hear()
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # whoever waits is told later, or not at all
                self._together.publish(self._beat[1])
            if self.stalled():
                line = (
                    f"{self._what}: nothing for {self._seconds / 60:g} minutes {self._beat[1]} ({self._where()}); "
                    "another process is gone or a device hangs; resume the run, with more "
                    "--train.engine.stall-minutes if a step lasts"
                )
                print(line, file=sys.stderr, flush=True)
                with contextlib.suppress(Exception):  # standard error may be no file
                    faulthandler.dump_traceback(all_threads=True)
                self._end(AGAIN)
                return

    def _hear(self) -> None:
        """What the first process goes on with, as it or what asks a server there says, is a beat of all: the others
        wait for what it decides."""
        own = self._beat[1] if self._together.first else ""
        if (at := self._together.published_by(0)) not in ("", own, self._heard):
            self._heard, self._beat = at, (self._clock(), self._beat[1])

    def _where(self) -> str:
        """Which process this is, and where the others are."""
        mine = f"process {self._together.number} of {self._together.count}"
        others = [f"process {n}: {at or 'never heard of'}" for n, at in self._together.published().items()]
        return "; ".join([mine, *others])


class Signals:
    """What this process would have all of them do: a checkpoint when the clock says so, an end once it is `asked`.

    A signal goes into the step and comes out of it as the largest of all processes' signals, so that all act alike.
    """

    def __init__(self, save_minutes: float, clock: Callable[[], float], asked: Callable[[], int]):
        self._seconds, self._clock, self._saved, self._asked = 60 * save_minutes, clock, clock(), asked

    def now(self) -> int:
        """What to give to the next step: 0, SAVE or STOP."""
        if self._asked():
            return STOP
        return SAVE if self._clock() - self._saved >= self._seconds else 0

    def saved(self) -> None:
        """A checkpoint is being written."""
        self._saved = self._clock()


class Profile:
    """Traces the steps from `first` to before `last` into a directory that TensorBoard and xprof open.

    What was traced is written at the end of the `with` block too, also when training raises.
    """

    def __init__(self, window: tuple[int, int], directory: str):
        self._window, self._directory = window, epath.Path(directory)
        self._traced: Outbox | None = None

    def before(self, step: int) -> None:
        """Begins or ends the trace, where this step is the first to be traced, or the first that is not."""
        first, last = self._window
        if first <= step < last and not self._traced:
            self._traced = Outbox(self._directory)
            jax.profiler.start_trace(str(self._traced.place))
        elif step >= last:
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._traced:
            jax.profiler.stop_trace()
            self._traced.close()
            self._traced = None

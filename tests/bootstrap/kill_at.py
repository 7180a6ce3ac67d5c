"""Where a run can be killed: `at(point, die)` arranges that `die` is called inside a stage.

As a program it goes on with a run and kills its own process there, without warning: python kill_at.py DIRECTORY POINT,
perhaps with more words for `ratchet resume`. At the point "full" it goes on with no room left on the disk, at "few" to
its end with the shapes of accelerators, and at "never" to its end.
"""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from ratchet.launch.__main__ import end, join_others

if __name__ == "__main__":
    join_others(sys.argv)  # before any other import

from ratchet.bootstrap import ahead, ledger, run
from ratchet.bootstrap.stages import corrections, evaluate, promote, transcripts
from ratchet.launch import cli
from ratchet.models import programs
from ratchet.train import checkpoint, files, records, trainer

Die = Callable[[], Any]


@contextlib.contextmanager
def replaced(module: Any, name: str, other: Any) -> Iterator[None]:
    """`module.name` is something else for a while."""
    real = getattr(module, name)
    setattr(module, name, other)
    try:
        yield
    finally:
        setattr(module, name, real)


def at_call(module: Any, name: str, die: Die, number: int = 1):
    """Dies when `module.name` is called for the n-th time."""
    real, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) == number else real(*args, **kwargs)

    return replaced(module, name, counted)


def torn_unit(die: Die):
    """The second unit's records are written, its commit is not."""
    real, calls = ledger.write_unit, []

    def write(*args):
        result = real(*args)
        calls.append(1)
        return die() if len(calls) == 2 else result

    return replaced(ledger, "write_unit", write)


def after_the_first_checkpoint(die: Die):
    real = trainer.make_step

    def make_step(*args, **kwargs):
        step = real(*args, **kwargs)

        def stepping(state, batch, frozen):
            return die() if int(state.step) == 5 else step(state, batch, frozen)  # saved at 3, by now committed

        stepping.lower = step.lower
        return stepping

    return replaced(trainer, "make_step", make_step)


def while_saving_the_weights(die: Die):
    """The directory is there and nothing in it."""
    return replaced(run, "save_weights", lambda place, params: (checkpoint.Checkpoints(place), die()))


def full_disk(die: Die):
    """From the next unit on, no file may grow beyond four kilobytes."""
    real = files.write_unit

    def write(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return real(*args)

    return replaced(ledger, "write_unit", write)


@contextlib.contextmanager
def few(_):
    """Shapes are those of accelerators, and what is compiled ahead is told."""
    real = ahead.compile_alone

    def compile_alone(*given):
        try:
            real(*given)
        finally:
            print("compiled ahead", file=sys.stderr, flush=True)

    with replaced(programs, "few", lambda device=None: True), replaced(ahead, "compile_alone", compile_alone):
        yield


POINTS: dict[str, Callable[[Die], contextlib.AbstractContextManager]] = {
    "simulate": torn_unit,
    "review": lambda die: at_call(transcripts, "reject_repeated", die, 2),
    "targets": lambda die: at_call(transcripts, "make_targets", die, 2),
    "choosing λ": lambda die: at_call(corrections.wrongthink, "sweep", die, 2),
    "corrections": lambda die: at_call(corrections, "_unit", die, 2),
    "dataset": lambda die: at_call(records.tfds.folder_dataset, "write_metadata", die),
    "train": after_the_first_checkpoint,
    "weights": while_saving_the_weights,
    "evaluate": lambda die: at_call(evaluate, "recovery", die),
    "promote": lambda die: at_call(promote, "decide", die),
}
"""Every place in the order in which a generation comes to it."""

if __name__ == "__main__":
    directory, point, *words = sys.argv[1:]
    places = POINTS | {"full": full_disk, "few": few, "never": lambda die: contextlib.nullcontext()}
    with places[point](lambda: os.kill(os.getpid(), signal.SIGKILL)):
        end(cli.main(["resume", directory, *words]))

"""Goes on with a run and kills its own process, without warning, inside a stage: python kill_at.py DIRECTORY POINT.

At the point "full" it goes on with no room left on the disk.
"""

import os
import resource
import signal
import sys

import ratchet.bootstrap.evaluate as evaluate
import ratchet.bootstrap.generation as generation
import ratchet.bootstrap.ledger as ledger
import ratchet.bootstrap.outcome as outcome
import ratchet.bootstrap.wrongthink as wrongthink
import ratchet.train.checkpoint as checkpoint
import ratchet.train.records as records
import ratchet.train.trainer as trainer
from ratchet.launch import cli


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(module, name, number=1):
    """Dies when `module.name` is called for the n-th time."""
    real, calls = getattr(module, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        return die() if len(calls) == number else real(*args, **kwargs)

    setattr(module, name, counted)


def torn_unit():
    """The second unit's records are written, its commit is not."""
    real, calls = ledger.write_unit, []

    def write(*args):
        result = real(*args)
        calls.append(1)
        return die() if len(calls) == 2 else result

    ledger.write_unit = write


def after_the_first_checkpoint():
    real = trainer.make_step

    def make_step(*args):
        step = real(*args)

        def stepping(state, batch, frozen):
            if int(state.step) == 5:  # saved at 3, by now committed
                die()
            return step(state, batch, frozen)

        return stepping

    trainer.make_step = make_step


def while_saving_the_weights():
    """The directory is there and nothing in it."""
    generation.save_weights = lambda place, params: (checkpoint.Checkpoints(place), die())


def full_disk():
    """From the next unit on, no file may grow beyond four kilobytes."""
    real = ledger.write_unit

    def write(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return real(*args)

    ledger.write_unit = write


POINTS = {
    "full": full_disk,
    "simulate": torn_unit,
    "review": lambda: at_call(generation, "distinct_transcripts", 2),
    "targets": lambda: at_call(generation, "make_targets", 2),
    "wrongthink": lambda: at_call(wrongthink, "sweep"),
    "dataset": lambda: at_call(records.tfds.folder_dataset, "write_metadata"),
    "train": after_the_first_checkpoint,
    "weights": while_saving_the_weights,
    "evaluate": lambda: at_call(evaluate, "recovery"),
    "promote": lambda: at_call(outcome, "decide"),
}

if __name__ == "__main__":
    directory, point = sys.argv[1:]
    if point != "never":
        POINTS[point]()
    sys.exit(cli.main(["resume", directory]))

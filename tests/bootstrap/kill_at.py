"""Places inside the stages at which a run is killed: `POINTS[name](patch, die)` makes it die there.

As a program, it goes on with a run and kills itself without warning: python kill_at.py POINT DIRECTORY [SETTINGS]. At
the point "full" it goes on with no room left on the disk.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial

import jax

from ratchet.bootstrap import ledger, loop, progress, run, wrongthink
from ratchet.bootstrap.stages import audit, baselines, calibrate, corrections, evaluate, promote, seed, transcripts
from ratchet.bootstrap.stages import train as training
from ratchet.launch import cli
from ratchet.train import checkpoint, records, sharding, trainer

Patch = Callable[[object, str, object], None]
"""Sets an attribute of an object, as `setattr` does."""
Die = Callable[[], None]


def at_call(owner: object, name: str, number: int, patch: Patch, die: Die) -> None:
    """Dies when `owner.name` is called for the n-th time."""
    real, calls = getattr(owner, name), []

    def counted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            die()
        return real(*args, **kwargs)

    patch(owner, name, counted)


def torn_unit(patch: Patch, die: Die) -> None:
    """The second unit's records are written, its commit is not."""
    real, calls = ledger.write_unit, []

    def write(*args):
        result = real(*args)
        calls.append(1)
        if len(calls) == 2:
            die()
        return result

    patch(ledger, "write_unit", write)


def after_a_checkpoint(patch: Patch, die: Die) -> None:
    """In step 5 of training, when step 3 has been saved or is about to be."""
    real = trainer.make_step

    def make_step(*args):
        step = real(*args)

        def stepping(state, batch, frozen):
            if int(state.step) == 5:
                die()
            return step(state, batch, frozen)

        return stepping

    patch(trainer, "make_step", make_step)


def empty_weights(patch: Patch, die: Die) -> None:
    """The directory of the weights is there and nothing in it."""
    patch(training, "save_weights", lambda place, params: (checkpoint.Checkpoints(place).close(), die()))


def before_done(patch: Patch, die: Die) -> None:
    """The decision is written, DONE.json is not."""
    real = progress.Metrics.log

    def log(self, generation, arm, step, values):
        if arm == "sampler":
            die()
        real(self, generation, arm, step, values)

    patch(progress.Metrics, "log", log)


def full_disk(patch: Patch, die: Die) -> None:
    """From the next unit on, no file may grow beyond four kilobytes."""
    real = ledger.write_unit

    def write(*args):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return real(*args)

    patch(ledger, "write_unit", write)


POINTS: dict[str, Callable[[Patch, Die], None]] = {
    "tokenizer": partial(at_call, run, "prepare_tokenizer", 1),
    "seed": partial(at_call, seed, "save_weights", 1),
    "begin": partial(at_call, evaluate, "closed_book", 1),
    "extend": partial(at_call, loop, "write_json", 1),
    "full": full_disk,
    "simulate": torn_unit,
    "calibrate": partial(at_call, calibrate, "calibrate", 1),
    "review": partial(at_call, transcripts, "reject_repeated", 2),
    "targets": partial(at_call, transcripts, "make_targets", 2),
    "thinker": partial(at_call, wrongthink, "sweep", 1),
    "wrongthink": partial(at_call, corrections, "_unit", 2),
    "corrections": partial(at_call, transcripts, "make_targets", 2),
    "dataset": partial(at_call, records.tfds.folder_dataset, "write_metadata", 1),
    "audit": partial(at_call, audit, "audit", 1),
    "train": after_a_checkpoint,
    "weights": empty_weights,
    "evaluate": partial(at_call, evaluate, "recovery", 1),
    "promote": partial(at_call, promote, "decide", 1),
    "done": before_done,
    "imitation": partial(at_call, baselines, "save_weights", 1),
}
"""Kill points in the order of a run; those between two units count what has been made since the start."""


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    point, *words = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 8)  # as in the other tests, of which a run uses one
    run.make_mesh = lambda config: sharding.make_mesh(config, jax.devices()[:1])
    POINTS[point](setattr, killed)
    sys.exit(cli.main(["resume", *words]))

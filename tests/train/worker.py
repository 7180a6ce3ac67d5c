"""One process of several that train together: python worker.py PORT PROCESSES NUMBER DIRECTORY LAST.

Prints `step N loss` for every step. When all have printed step LAST they die without a word (-1: never).
"""

import os
import signal
import sys
from collections.abc import Callable

import jax
import numpy as np
from processes import begin

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.records import Example
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.together import connect, current
from ratchet.train.trainer import EngineConfig, StepMetrics, Training, fit

LAID = MeshConfig(-1, 2, 1)
"""How four devices are laid out, whichever processes they belong to."""


def example(number: int) -> Example:
    """Random tokens, of which the last few are predicted from two ids each."""
    rng = np.random.default_rng(number)
    tokens = rng.integers(2, 64, int(rng.integers(6, 20)))
    count = int(rng.integers(2, 5))
    weights = np.r_[np.zeros(len(tokens) - count), np.ones(count)]
    ids = np.stack([tokens[-count:], (tokens[-count:] + 1) % 64], 1)
    probs = np.tile([0.6, 0.3], (count, 1))
    return Example.create(tokens, weights, ids, probs, np.full(count, 0.1), origin="seed", lineage={"number": number})


def train(mesh: jax.sharding.Mesh, directory, log: Callable[[int, StepMetrics], None]) -> None:
    """Trains a small model for twelve steps, or goes on from what lies in the directory. Every third step is saved."""
    config = DecoderConfig(vocab_size=64, width=32, layers=1, heads=4, kv_heads=2, mlp_width=64, max_length=40)
    batches = Batches([([example(n) for n in range(24)], 8)], seed=0, steps=12, columns=40, row_multiple=8)
    engine = EngineConfig(save_every=3, micro_batches=2)
    graphdef, params = decoder.create(config, 0)
    run = Training(graphdef, batches, OptimizerConfig("adamw", 1e-2), mesh, engine, {})
    with Checkpoints(directory) as checkpoints:
        fit(run, params, checkpoints, log)


def main(port: str, processes: int, number: int, directory: str, last: int) -> None:
    begin(port, processes, number)
    mesh = make_mesh(LAID)
    connect(mesh)

    def log(step: int, values: StepMetrics) -> None:
        print("step", step, repr(values["loss"]), flush=True)
        if step == last:
            current().wait("last")
            os.kill(os.getpid(), signal.SIGKILL)

    train(mesh, directory, log)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))

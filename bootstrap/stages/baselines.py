"""The imitation arm: the same seed model on the raw documents of every slice read, one-hot, for as many tokens."""

import numpy as np
from flax import nnx

from ratchet.bootstrap import examples
from ratchet.bootstrap.arms import arm_of, forget_checkpoints, train_arm
from ratchet.bootstrap.run import Run

PLACE = "imitation"
"""The arm's directory within the run's."""


def imitate(run: Run, base: nnx.State) -> nnx.State:
    """The arm's weights: what Ratchet never does, for contrast."""
    place, last = run.directory / PLACE, run.config.generations
    if not run.has_weights(place):
        read = [d for material in run.world.slices[:last] for d in material.documents]
        raw = [e for d in read for e in examples.imitation_examples(run.tokenizer, d, run.config.train.columns)]
        per_document = float(np.mean([len(e.ids) for e in raw]))
        trained = run.commits.read(run.generation(last) / "training.json")
        batch = max(1, round(trained["tokens_per_step"] / per_document))
        rate = run.config.train.later_rate
        arm = arm_of(run, last, PLACE, [(raw, batch)], trained["steps"], rate)
        run.keep_weights(place, train_arm(run, base, arm))
        forget_checkpoints(run, last)
    return run.weights_in(place)


def forget(run: Run) -> None:
    """Removes the arm of a run that goes on: its weights, its figures, and the steps that were logged."""
    run.commits.forget(run.directory / PLACE)
    for place in (run.directory / PLACE, *(run.directory / "checkpoints").glob(f"{PLACE}-*")):
        place.rmtree(missing_ok=True)
    run.metrics.forget(PLACE)

"""What is shown of the training of an arm."""

import contextlib
from dataclasses import replace

import pytest
from support import random_examples

from ratchet.bootstrap import arms
from ratchet.bootstrap.progress import Silent

STEP = dict.fromkeys(("loss", "kl", "tail", "gradient_norm", "rate", "tokens_per_second"), 0.5)


@pytest.mark.parametrize(
    ("first", "told"),
    [(0, [(0, False, None), (2, False, 9.0), (1, False, 8.0)]),
     (3, [(3, True, None), (0, False, None), (2, False, 9.0), (1, False, 8.0)])],
)  # fmt: skip
def test_the_first_step_counts_with_the_second_since_it_compiles(little_run, monkeypatch, first, told):
    """What an earlier process did counts as found."""
    shown = []

    class Told(Silent):
        @contextlib.contextmanager
        def stage(self, title, total):
            yield lambda count, about=(), *, found=False, left=None: shown.append((count, found, left))

    def fit(training, params, checkpoints, log):
        for step, left in enumerate(({}, {"seconds_left": 9.0}, {"seconds_left": 8.0}), first):
            log(step, STEP | left)

    monkeypatch.setattr(arms, "fit", fit)
    run = replace(little_run, progress=Told(), metrics=None)
    arms.train_arm(run, None, arms.arm_of(run, 1, "loop", [(random_examples(4), 2)], 9))
    assert shown == told

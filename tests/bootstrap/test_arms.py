"""What is shown of the training of an arm."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support import little_config, random_examples, start

from ratchet.bootstrap import arms
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.run import prepare
from ratchet.train.trainer import EngineConfig

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


@pytest.mark.parametrize(("every", "left"), [(0, ["loop-002"]), (2, ["anti-001", "loop-001", "loop-002"])])
def test_checkpoints_of_what_is_trained_go_unless_some_were_asked_for(tmp_path, every, left):
    """They hold the optimizer's moments beside the weights, for every generation."""
    config = little_config(train__engine=EngineConfig(save_every=every, save_minutes=1e-9))
    run = prepare(start(tmp_path / "run", config), config, Silent())
    for arm, number in (("loop", 1), ("anti", 1), ("loop", 2)):
        arms.train_arm(run, run.fresh_weights(), arms.arm_of(run, number, arm, [(random_examples(4), 2)], 3))
    checkpoints = lambda: sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert checkpoints() == ["anti-001", "loop-001", "loop-002"]
    arms.forget_checkpoints(replace(run, together=replace(run.together, number=1)), 1)
    assert len(checkpoints()) == 3, "one process removes them"
    arms.forget_checkpoints(run, 1)
    assert checkpoints() == left
    run.metrics.close()


@pytest.mark.parametrize(
    ("steps", "logged"),
    [(3, [0, 1, 2]), (10, [*range(10)]), (45, [*range(0, 45, 2)]), (550, [*range(0, 550, 20), 549])],
)
def test_of_few_steps_all_are_written_down_and_of_many_every_twentieth(little_run, monkeypatch, steps, logged):
    found = []
    run = replace(little_run, metrics=SimpleNamespace(log=lambda generation, arm, step, values: found.append(step)))
    monkeypatch.setattr(arms, "fit", lambda training, params, checkpoints, log: [log(n, STEP) for n in range(steps)])
    arms.train_arm(run, None, arms.arm_of(run, 1, "loop", [(random_examples(4), 2)], steps))
    assert found == logged


def test_arms_of_few_steps_share_the_shapes_of_their_batches(little_run):
    """So a generation trains them with the programs of the one before."""
    shapes = {}
    for few in (False, True):
        pools = [(n, [(random_examples(40 + n, seed=n), 20)]) for n in (2, 3)]
        made = [arms.arm_of(little_run, n, "anti", of, 3, few_shapes=few) for n, of in pools]
        shapes[few] = [(b.rows, b.predictions, b.keep, b.segments > 1) for b in (arm.batches for arm in made)]
    assert shapes[True][0] == shapes[True][1] and shapes[False][0] != shapes[False][1]

"""What a trace of some steps holds, and what a run that is stopped at its start or its end leaves."""

import dataclasses
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from support import awaken, random_examples

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.train import trainer
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.stopping import Stopped
from ratchet.train.trainer import EngineConfig, Training, TrainingDiverged, fit

CONFIG = DecoderConfig(vocab_size=64, width=16, layers=1, heads=2, kv_heads=2, mlp_width=32, max_length=40)
nothing = lambda step, values: None


@pytest.fixture(scope="module")
def model():
    graphdef, params = decoder.create(CONFIG, 0)
    return graphdef, awaken(params)


def training(graphdef, **engine):
    source = Batches([(random_examples(24, keep=4), 8)], seed=0, steps=6, columns=40, row_multiple=8)
    mesh, engine = make_mesh(MeshConfig(), jax.devices()[:1]), EngineConfig(**{"save_every": 0} | engine)
    return Training(graphdef, source, OptimizerConfig(), mesh, engine, {"data": "d", "arm": "test"})


def test_nothing_of_other_steps_runs_when_a_trace_begins_and_ends(model, monkeypatch, tmp_path):
    """Steps are dispatched before the one ahead of them has ended."""
    made, found = [], {}
    make = trainer.make_step

    def remembering(*of, **more):
        step = make(*of, **more)

        def run(*given):
            state, sums = step(*given)
            made.append(sums)
            return state, sums

        return run

    def before(self, step):
        if step in self._window:
            found[step] = len(made), all(array.is_ready() for sums in made for array in jax.tree.leaves(sums))

    monkeypatch.setattr(trainer, "make_step", remembering)
    monkeypatch.setattr(trainer.Profile, "before", before)
    waited, wait = [], jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda of: waited.append(len(made)) or wait(of))
    run = dataclasses.replace(training(model[0], profile=(2, 4)), profile_directory=str(tmp_path))
    fit(run, model[1], None, nothing)
    assert found == {2: (2, True), 4: (4, True)} and {2, 4} <= {*waited}


def test_a_run_that_is_stopped_at_once_again_keeps_the_checkpoint_that_it_stands_on(model, tmp_path, monkeypatch):
    """To write it anew would take it away first."""
    run = training(model[0])

    def stop(step, values):
        signal.raise_signal(signal.SIGTERM)

    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Stopped):
        fit(run, model[1], checkpoints, stop)
    with Checkpoints(tmp_path) as checkpoints:
        stands, restored = checkpoints.latest(), trainer._restored
        assert stands
        monkeypatch.setattr(checkpoints, "save", lambda *_, **__: pytest.fail("nothing is new"))
        monkeypatch.setattr(trainer, "_restored", lambda *of: (restored(*of), signal.raise_signal(signal.SIGTERM))[0])
        with pytest.raises(Stopped):
            fit(run, model[1], checkpoints, nothing)
        assert checkpoints.latest() == stands


@pytest.mark.parametrize("asked", [True, False])
def test_all_of_several_processes_save_and_stop_when_one_is_told_to_in_the_last_step(model, monkeypatch, asked):
    """The step says it to those that nobody told."""
    saved = []
    kept = SimpleNamespace(latest=lambda: None, save=lambda step, state, position: saved.append(step))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    report = trainer._Reporter.__call__
    last = lambda self, step, sums: max(report(self, step, sums), trainer.STOP * (asked and step == 5))
    monkeypatch.setattr(trainer._Reporter, "__call__", last)
    run = training(model[0])
    if not asked:
        fit(run, model[1], kept, nothing)
        assert not saved
        return
    with pytest.raises(Stopped):
        fit(run, model[1], kept, nothing)
    assert saved == [6]


def test_what_a_step_without_a_finite_loss_made_is_not_saved(model, tmp_path):
    graphdef, params = model
    broken = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), params)
    batches = Batches([(random_examples(8), 8)], seed=0, steps=5, columns=40, row_multiple=8)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    run = Training(graphdef, batches, OptimizerConfig("adamw", 1e-2), mesh, EngineConfig(save_every=1), {"data": "d"})
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(TrainingDiverged, match="at step 0"):
        fit(run, broken, checkpoints, nothing)
    assert not [*(tmp_path / "c").glob("[0-9]*")]

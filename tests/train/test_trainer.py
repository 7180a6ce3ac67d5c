import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import assert_same_bits, awaken, random_examples

from models import decoder
from models.decoder import DecoderConfig
from train import trainer
from train.batches import Batches
from train.checkpoint import Checkpoints
from train.optimizer import OptimizerConfig
from train.sharding import MeshConfig, batch_sharding, make_mesh, state_sharding
from train.trainer import State, Training, TrainingDiverged, fit, make_step, mean_loss

CONFIG = DecoderConfig(vocab_size=64, width=32, layers=1, heads=8, kv_heads=8, mlp_width=64, max_length=40)
GOLDEN = {"loss": 4.380894, "gradient_norm": 2.196493}
"""One step on CPU, float32. After a wanted change of model or loss: run the test, put in what it prints."""


def model(config=CONFIG):
    graphdef, params = decoder.create(config, 0)
    return graphdef, awaken(params)


def batches(steps=6, *, columns=40, keep=4, count=8, size=24, rows=8):
    return Batches([(random_examples(size, keep=keep), count)], seed=0, steps=steps, columns=columns, row_multiple=rows)


def alone():
    """A mesh of one device."""
    return make_mesh(MeshConfig(), jax.devices()[:1])


def training(graphdef, source, *, kind="adamw", rate=1e-2):
    return Training(graphdef, source, OptimizerConfig(kind, rate), alone(), 2, {"data": "d", "arm": "test"})


def one_step(mesh, tx=None, batch=None):
    graphdef, params = model()
    tx = tx or optax.sgd(0.1)
    state = State(params, tx.init(params), jnp.zeros((), jnp.int32))
    state = jax.tree.map(jnp.copy, jax.device_put(state, state_sharding(mesh, state)))
    batch = jax.device_put(batches()[0] if batch is None else batch, batch_sharding(mesh))
    state, sums = make_step(graphdef, tx)(state, batch)
    return state.params, {name: float(value) for name, value in sums.items()}


def reference_loss(batch) -> float:
    """Sum over weighted positions, in float64 from the logits on: −Σ p log q − tail · log(1 − Q)."""
    graphdef, params = model()
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        merged = nnx.merge(graphdef, wide)
        hidden = np.asarray(merged(*(jnp.asarray(batch[n]) for n in ("tokens", "positions", "segments"))), np.float64)
        head = np.asarray(merged.head_DV(), np.float64)
    total = 0.0
    for r, m in zip(*np.nonzero(batch["weights"]), strict=True):
        logits = hidden[r, batch["predict"][r, m]] @ head
        log_q = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        kept = {int(i): float(p) for i, p in zip(batch["ids"][r, m], batch["probs"][r, m], strict=True) if p > 0}
        outside = np.delete(np.exp(log_q), list(kept)).sum()
        tail = float(batch["tail"][r, m])
        total -= sum(p * log_q[i] for i, p in kept.items()) + (tail * np.log(outside) if tail else 0.0)
    return total


def test_one_step_gives_the_golden_metrics_and_the_loss_of_a_float64_reference():
    _, sums = one_step(alone())
    loss, norm = sums["loss"] / sums["weight"], sums["gradient_norm"]
    assert sums["loss"] == pytest.approx(reference_loss(batches()[0]), rel=1e-5)
    print(f"golden: loss {loss:.7g}, gradient_norm {norm:.7g}")
    assert loss == pytest.approx(GOLDEN["loss"], rel=1e-5)
    assert norm == pytest.approx(GOLDEN["gradient_norm"], rel=1e-5)


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_a_step_is_the_same_on_every_mesh(shape):
    params, sums = one_step(make_mesh(MeshConfig(*shape)))
    expected, expected_sums = one_step(alone())
    assert sums == pytest.approx(expected_sums, rel=1e-5)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_traces_its_step_once(monkeypatch):
    calls = []
    real = trainer.soft_target_loss
    monkeypatch.setattr(trainer, "soft_target_loss", lambda *args: calls.append(1) or real(*args))
    graphdef, params = model(dataclasses.replace(CONFIG, mlp_width=56))
    fit(training(graphdef, batches(steps=5)), params, None, lambda step, values: None)
    assert len(calls) == 1


class Killed(Exception):
    pass


def test_a_killed_and_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path):
    graphdef, params = model()
    run, logged = training(graphdef, batches(steps=9), kind="muon"), {}
    run = dataclasses.replace(run, optimizer=dataclasses.replace(run.optimizer, average=0.5))
    whole = fit(run, params, None, lambda step, values: logged.setdefault(step, values["loss"]))

    def die(step, values):
        if step == 5:
            raise Killed

    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(Killed):
        fit(run, params, checkpoints, die)
    again = {}
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 6
        resumed = fit(run, params, checkpoints, lambda step, values: again.setdefault(step, values["loss"]))
    assert sorted(again) == [6, 7, 8]
    assert all(again[step] == logged[step] for step in again)
    assert_same_bits(whole, resumed)


def test_the_given_weights_survive_training():
    graphdef, params = model()
    before = jax.tree.map(np.array, params)
    fit(training(graphdef, batches(steps=2)), params, None, lambda step, values: None)
    assert_same_bits(params, before)


def test_a_checkpoint_of_another_run_is_refused_by_the_field_that_differs(tmp_path):
    graphdef, params = model()
    run = training(graphdef, batches(steps=4))
    with Checkpoints(tmp_path / "c") as checkpoints:
        fit(run, params, checkpoints, lambda step, values: None)
        other = dataclasses.replace(run, position=run.position | {"data": "other"})
        with pytest.raises(ValueError, match="made with other data; start a new run"):
            fit(other, params, checkpoints, lambda step, values: None)


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path):
    graphdef, params = model()
    broken = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), params)
    seen = []
    with pytest.raises(TrainingDiverged, match=r"the loss is nan at step 0; lower --train.optimizer.rate"):
        fit(training(graphdef, batches(steps=5)), broken, None, lambda step, values: seen.append(step))
    assert not seen


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_small_set_is_learned_by_heart(kind):
    graphdef, params = decoder.create(CONFIG, 0)
    losses = {}
    source = batches(steps=60, keep=1, size=8)
    trained = fit(
        training(graphdef, source, kind=kind), params, None,
        lambda step, values: losses.setdefault(step, values["loss"]),
    )  # fmt: skip
    assert sorted(losses) == list(range(60))
    assert losses[59] < 0.1 * losses[0]
    examples = source.pools[0][0]
    assert mean_loss(graphdef, trained, examples) < 0.1 * mean_loss(graphdef, params, examples)


def test_mean_loss_does_not_depend_on_the_rows_it_is_computed_in():
    graphdef, params = model()
    examples = random_examples(10, keep=3)
    assert mean_loss(graphdef, params, examples, rows=4) == pytest.approx(
        mean_loss(graphdef, params, examples, rows=16), rel=1e-6
    )

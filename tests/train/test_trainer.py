import dataclasses
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support import assert_same_bits, awaken, random_examples

from ratchet.models import attention, decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train import flops, trainer
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.loss import LossConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.records import Example
from ratchet.train.sharding import MeshConfig, make_mesh, place, place_batch, state_sharding
from ratchet.train.stopping import Stopped
from ratchet.train.trainer import EngineConfig, State, Training, TrainingDiverged, fit, make_step, mean_loss

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


def training(graphdef, source, *, kind="adamw", rate=1e-2, **engine):
    engine = EngineConfig(**{"save_every": 2} | engine)
    return Training(graphdef, source, OptimizerConfig(kind, rate), alone(), engine, {"data": "d", "arm": "test"})


def one_step(mesh, engine=EngineConfig(), batch=None, config=CONFIG):
    graphdef, params = model(config)
    tx = optax.with_extra_args_support(optax.sgd(0.1))
    state = State(params, tx.init(params), jnp.zeros((), jnp.int32))
    state = place(state, state_sharding(mesh, state))
    batch = batches()[0] if batch is None else batch
    rows = len(batch["tokens"])
    with jax.set_mesh(mesh):
        batch = place_batch(mesh, rows, batch | dict.fromkeys(("signal", "rate"), np.zeros(rows, np.int32)))
        state, sums = make_step(graphdef, tx, engine, state)(state, batch)
    return state.params, {name: float(value) for name, value in sums.items()}


@pytest.fixture(scope="module")
def plain_step():
    """Weights and sums of a step on one device."""
    return one_step(alone())


@pytest.mark.parametrize("mesh", [MeshConfig(1, 1, 1), MeshConfig(2, 2, 2)])
def test_all_steps_are_one_program(mesh, monkeypatch):
    """The state that a step leaves has the types and the layout of the one that training began with."""
    graphdef, params = decoder.create(CONFIG, 0)
    made = []
    monkeypatch.setattr(trainer, "make_step", lambda *args: made.append(make_step(*args)) or made[0])
    devices = jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]
    run = Training(graphdef, batches(3), OptimizerConfig("muon", 1e-2), make_mesh(mesh, devices), EngineConfig(), {})
    fit(run, params, None, lambda step, values: None)
    assert made[0]._cache_size() == 1


def assert_close(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance)


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


def test_one_step_gives_the_golden_metrics_and_the_loss_of_a_float64_reference(plain_step):
    _, sums = plain_step
    loss, norm = sums["loss"] / sums["weight"], sums["gradient_norm"]
    assert sums["loss"] == pytest.approx(reference_loss(batches()[0]), rel=1e-5)
    print(f"golden: loss {loss:.7g}, gradient_norm {norm:.7g}")
    assert loss == pytest.approx(GOLDEN["loss"], rel=1e-5)
    assert norm == pytest.approx(GOLDEN["gradient_norm"], rel=1e-5)


@pytest.fixture
def unwritten():
    """Programs are not written to the compile cache: twice, writing one of a mesh's has aborted the process in XLA."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("unwritten")
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 2, 2), (1, 4, 2), (1, 1, 8)])
def test_a_step_is_the_same_on_every_mesh(shape, plain_step):
    params, sums = one_step(make_mesh(MeshConfig(*shape)))
    expected, expected_sums = plain_step
    assert sums == pytest.approx(expected_sums, rel=1e-5)
    assert_close(params, expected, 1e-5)


@pytest.fixture(scope="module")
def uneven():
    """A batch of which most rows weigh nothing, so that a mean of means would be far off; and its step."""
    batch = dict(batches(rows=16, size=40, count=24)[0])
    batch["weights"] = batch["weights"] * (np.arange(16) % 3 == 0)[:, None]
    return batch, one_step(alone(), EngineConfig(), batch)


@pytest.mark.parametrize(("parts", "shape"), [(2, (1, 1, 1)), (4, (1, 1, 1)), (2, (2, 2, 2)), (4, (2, 2, 2))])
def test_micro_batches_of_unequal_token_counts_add_up_to_one_batch(parts, shape, uneven):
    batch, (expected, expected_sums) = uneven
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: int(np.prod(shape))])
    params, sums = one_step(mesh, EngineConfig(micro_batches=parts), batch)
    assert sums == pytest.approx(expected_sums, rel=1e-5)
    assert_close(params, expected, 1e-6)


def test_packed_rows_equal_one_sequence_a_row():
    packed = batches(columns=40)
    examples = [packed.pools[0][0][i] for _, i in packed.picks(0)]
    apart = trainer.pack(examples, range(len(examples)), len(examples), 40, int(packed.predictions), 4)
    assert packed[0]["segments"].max() > 1
    params, sums = one_step(alone(), batch=packed[0])
    expected, expected_sums = one_step(alone(), batch=apart)
    assert sums == pytest.approx(expected_sums, rel=1e-5)
    assert_close(params, expected, 1e-6)


@pytest.fixture(scope="module")
def deep():
    """A model of three layers, and its step."""
    config = dataclasses.replace(CONFIG, layers=3)
    return config, one_step(alone(), config=config)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_computing_layers_again_changes_nothing(remat, deep):
    config, (expected, expected_sums) = deep
    params, sums = one_step(alone(), EngineConfig(remat=remat), config=config)
    assert sums == pytest.approx(expected_sums, rel=1e-6)
    assert_close(params, expected, 1e-6)


def test_bfloat16_products_stay_near_float32_and_weights_stay_float32(plain_step):
    params, sums = one_step(alone(), EngineConfig(dtype="bfloat16"))
    _, expected = plain_step
    assert sums["loss"] == pytest.approx(expected["loss"], rel=1e-2) and sums["loss"] != expected["loss"]
    assert sums["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=5e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_the_hard_weight_of_a_run_uses_the_emitted_tokens():
    _, sums = one_step(alone(), EngineConfig(loss=LossConfig(hard_weight=1.0)))
    batch = dict(batches()[0])
    slots = np.arange(batch["ids"].shape[-1]) == 0
    one_hot = batch | {
        "ids": batch["labels"][..., None] * slots,
        "probs": np.float32((batch["weights"] > 0)[..., None] * slots),
        "tail": np.zeros_like(batch["tail"]),
    }
    _, expected = one_step(alone(), batch=one_hot)
    assert sums["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_run_traces_its_step_once(monkeypatch):
    calls = []
    real = trainer.soft_target_loss
    monkeypatch.setattr(trainer, "soft_target_loss", lambda *args, **more: calls.append(1) or real(*args, **more))
    graphdef, params = model(dataclasses.replace(CONFIG, mlp_width=56))
    fit(training(graphdef, batches(steps=5)), params, None, lambda step, values: None)
    assert len(calls) == 1


def evenly(length):
    """An example of `length` tokens, all but the first of which are predicted from four ids alike."""
    ids, probs = np.tile(np.arange(4), (length - 1, 1)), np.full((length - 1, 4), 0.25)
    weights = np.r_[0.0, np.ones(length - 1)]
    return Example.create(np.arange(length) % 4, weights, ids, probs, np.zeros(length - 1), origin="seed", lineage={})


QWEN3 = Family(gated=True, query_key_norm=True)


@pytest.mark.parametrize("settings", [{}, {"family": QWEN3, "head_width": 16, "conv": 1}])
def test_the_traced_step_costs_what_the_formula_says(monkeypatch, settings):
    """Attention in blocks does a little more than half of the square; full remat runs the layers forward twice."""
    config = dataclasses.replace(CONFIG, layers=4, width=128, mlp_width=512, vocab_size=512, **settings)
    graphdef, params = decoder.create(config, 0)
    batch = trainer.pack([evenly(320)] * 2, (0, 1), 2, 320, 319, 4)
    monkeypatch.setattr(attention, "_BLOCK", 40)  # as long rows have it: eight blocks

    def cost(remat):
        engine = EngineConfig(remat=remat)
        return flops.traced_flops(jax.grad(lambda p: trainer.loss_sums(graphdef, p, batch, engine).loss), params)

    formula = flops.step_flops(config, 640, 638, 320)
    assert 1.0 <= cost("none") / formula < 1.03 and 1.2 < cost("full") / formula < 1.36


class Killed(Exception):
    pass


def test_a_killed_and_resumed_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path, monkeypatch):
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
    monkeypatch.setattr(trainer, "_initial", None)  # no second state is made beside what is restored
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == 6
        resumed = fit(run, params, checkpoints, lambda step, values: again.setdefault(step, values["loss"]))
    assert sorted(again) == [6, 7, 8]
    assert all(again[step] == logged[step] for step in again)
    assert_same_bits(whole, resumed)


def test_checkpoints_by_the_clock_are_temporary_and_those_by_the_step_stay(tmp_path):
    """The clock stands still but for two jumps; what is due by it is saved soon, and only the newest stays."""
    graphdef, params = model()
    now = [0.0]
    run = training(graphdef, batches(steps=14), save_every=5, save_minutes=1.0)
    saved = []

    def log(step, values):
        now[0] += 61.0 if step in (0, 5) else 0.0  # signalled in the next step, and seen when that has ended

    with Checkpoints(tmp_path / "c", keep=1, keep_every=5) as checkpoints:
        save = checkpoints.save
        checkpoints.save = lambda step, *args, **more: saved.append(step) or save(step, *args, **more)
        fit(run, params, checkpoints, log, clock=lambda: now[0])
        checkpoints.wait()
        assert sorted(int(p.name) for p in checkpoints.directory.iterdir()) == [5, 10]
    assert saved == [3, 5, 7, 10]


@pytest.mark.parametrize(("steps", "left"), [(4, [None, 20.0, 10.0, 0.0]), (1, [0.0])])
def test_the_first_step_which_compiles_tells_nothing_of_the_time_left(steps, left):
    graphdef, params = model()
    now, found = [0.0], []

    def log(step, values):
        found.append(values.get("seconds_left"))
        now[0] += 10.0

    fit(training(graphdef, batches(steps=steps)), params, None, log, clock=lambda: now[0])
    assert found == left


@pytest.mark.parametrize(
    ("number", "seconds", "told", "saved"),
    [(signal.SIGTERM, 0.1, 3, 5), (signal.SIGINT, 60.0, 3, 4), (signal.SIGTERM, 60.0, 8, 9)],
)
def test_a_run_that_is_told_to_stop_saves_and_goes_on_bit_for_bit(tmp_path, number, seconds, told, saved):
    """Step `told` is logged when it has ended. Of short steps the next one is under way then; of long ones none is."""
    graphdef, params = model()
    run, now = training(graphdef, batches(steps=9), save_every=0), [0.0]
    whole = fit(run, params, None, lambda step, values: None)

    def terminate(step, values):
        now[0] += seconds
        if step == told:
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(Stopped) as stopped:
        fit(run, params, checkpoints, terminate, clock=lambda: now[0])
    assert stopped.value.status == 128 + number and signal.getsignal(number) is before
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.latest() == saved
        assert_same_bits(whole, fit(run, params, checkpoints, lambda step, values: None))


def test_several_processes_stop_also_where_every_step_is_saved(monkeypatch):
    (graphdef, params), saved = model(), []
    kept = SimpleNamespace(latest=lambda: None, save=lambda step, state, position: saved.append(step))
    terminate = lambda step, values: step == 2 and signal.raise_signal(signal.SIGTERM)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(Stopped):
        fit(training(graphdef, batches(steps=9), save_every=1), params, kept, terminate)
    assert saved[-1] < 8, "a save is no answer to who asks for an end"


def test_a_window_of_steps_is_profiled(tmp_path):
    graphdef, params = model()
    run = training(graphdef, batches(steps=5), profile=(2, 4))
    fit(dataclasses.replace(run, profile_directory=str(tmp_path)), params, None, lambda step, values: None)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_a_profile_is_written_when_training_breaks_off(tmp_path):
    def full(step, values):
        raise OSError("no space left")

    graphdef, params = model()
    run = training(graphdef, batches(steps=5), profile=(0, 5))
    with pytest.raises(OSError, match="no space"):
        fit(dataclasses.replace(run, profile_directory=str(tmp_path)), params, None, full)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_the_given_weights_survive_training():
    graphdef, params = model()
    before = jax.tree.map(np.array, params)
    fit(training(graphdef, batches(steps=5)), params, None, lambda step, values: None)
    assert_same_bits(params, before)


def test_a_checkpoint_of_another_run_is_refused_by_the_field_that_differs(tmp_path):
    graphdef, params = model()
    run = training(graphdef, batches(steps=5))
    with Checkpoints(tmp_path / "c") as checkpoints:
        fit(run, params, checkpoints, lambda step, values: None)
        other = dataclasses.replace(run, position=run.position | {"data": "other"})
        with pytest.raises(ValueError, match="c: the checkpoint was made with other data; delete it and resume"):
            fit(other, params, checkpoints, lambda step, values: None)


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path):
    graphdef, params = model()
    broken = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].set(jnp.nan), params)
    seen = []
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step 0; start a new run with a lower --train\.optim"):
        fit(training(graphdef, batches(steps=5)), broken, None, lambda step, values: seen.append(step))
    assert not seen


def test_a_last_gradient_that_is_no_number_is_no_result(monkeypatch):
    """The loss is that of the weights before the update."""
    graphdef, params = model()
    norm = optax.tree.norm
    with monkeypatch.context() as patched:
        jax.clear_caches()
        patched.setattr(optax.tree, "norm", lambda tree: norm(tree) * jnp.inf)
        with pytest.raises(TrainingDiverged, match=r"the norm of the gradient is inf at step 0;"):
            fit(training(graphdef, batches(steps=1)), params, None, lambda step, values: None)
    jax.clear_caches()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_small_set_is_learned_by_heart(kind):
    graphdef, params = decoder.create(CONFIG, 0)
    losses = {}
    source = batches(steps=60, keep=1, size=8)
    trained = fit(
        training(graphdef, source, kind=kind), params, None,
        lambda step, values: losses.setdefault(step, values["loss"]),
    )
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

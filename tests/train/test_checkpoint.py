import errno
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ratchet.train.checkpoint import CheckpointError, Checkpoints, fingerprint, load_weights, save_weights


def train_state(seed=0):
    w, b, e = jax.random.split(jax.random.key(seed), 3)
    params = {
        "dense": {"kernel": jax.random.normal(w, (8, 16)), "bias": jax.random.normal(b, (16,), jnp.bfloat16)},
        "embed": jax.random.normal(e, (64, 8)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return {"params": params, "opt": optimizer.init(params), "step": jnp.int32(seed), "done": jnp.array([True, False])}


def assert_same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes()


def damage(directory, step):
    """Flips one bit in the middle of the largest file of array data."""
    victim = max((p for p in (directory / str(step) / "state").rglob("d/*")), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0x10
    victim.write_bytes(data)


def test_round_trip_is_bit_exact_and_keeps_the_newest(tmp_path):
    states = {step: train_state(step) for step in (1, 2, 3)}
    with Checkpoints(tmp_path / "ck", keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step, state in states.items():
            checkpoints.save(step, state, position={"batch": step * 10, "config": "abc"})
        checkpoints.wait()
        assert checkpoints.latest() == 3
    with Checkpoints(tmp_path / "ck") as reopened:
        state, position = reopened.restore(train_state(7))
        assert position == {"batch": 30, "config": "abc"}
        assert_same_bits(state, states[3])
        abstract = jax.eval_shape(train_state)
        assert_same_bits(reopened.restore(abstract, step=2)[0], states[2])
        with pytest.raises(CheckpointError, match="step 1"):  # dropped: keep=2
            reopened.restore(abstract, step=1)


def test_saving_an_existing_or_older_step_replaces_it(tmp_path):
    with Checkpoints(tmp_path / "ck") as checkpoints:
        checkpoints.save(4, train_state(1), position={"n": 1})
        checkpoints.save(4, train_state(2), position={"n": 2})
        checkpoints.save(3, train_state(3), position={"n": 3})
        state, position = checkpoints.restore(train_state(), step=4)
        assert position == {"n": 2}
        assert_same_bits(state, train_state(2))
        assert checkpoints.restore(train_state(), step=3)[1] == {"n": 3}


def test_restores_onto_other_shardings(tmp_path):
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
    spread = NamedSharding(mesh, PartitionSpec("fsdp", "tensor"))
    params = {"w": jax.random.normal(jax.random.key(0), (8, 16))}
    save_weights(tmp_path / "model", params)
    like = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=spread)}
    loaded = load_weights(tmp_path / "model", like)
    assert loaded["w"].sharding == spread
    assert_same_bits(loaded, params)
    save_weights(tmp_path / "model", loaded)  # and back, replacing
    assert_same_bits(load_weights(tmp_path / "model", params), params)


def test_damaged_newest_falls_back_and_is_removed(tmp_path, caplog):
    with Checkpoints(tmp_path / "ck") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, train_state(step), position={"step": step})
    damage(tmp_path / "ck", 2)
    with Checkpoints(tmp_path / "ck") as checkpoints, caplog.at_level(logging.WARNING, "ratchet.train.checkpoint"):
        state, position = checkpoints.restore(train_state())
        assert position == {"step": 1} and checkpoints.latest() == 1
        assert_same_bits(state, train_state(1))
    said = [r.message for r in caplog.records if r.name == "ratchet.train.checkpoint"]
    assert any("step 2 is damaged" in line for line in said)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"), MemoryError(),
        ValueError("RESOURCE_EXHAUSTED: Error opening file: Too many open files [os_error_code='24']"),
        ValueError("NOT_A_STATUS: Error reading: Permission denied [os_error_code='13']"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4096 bytes."),
    ],
)  # fmt: skip
def test_a_machine_that_is_full_damages_no_checkpoint(tmp_path, monkeypatch, error):
    with Checkpoints(tmp_path / "ck") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, train_state(step), position={"step": step})
    read = Checkpoints._read

    def full(self, step, like):
        if step == 2:
            raise error
        return read(self, step, like)

    with Checkpoints(tmp_path / "ck") as checkpoints:
        monkeypatch.setattr(Checkpoints, "_read", full)
        with pytest.raises(type(error)):
            checkpoints.restore(train_state())
        monkeypatch.undo()
        assert checkpoints.restore(train_state())[1] == {"step": 2}


def test_both_damaged_is_one_clear_line(tmp_path):
    with Checkpoints(tmp_path / "ck") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, train_state(step), position={})
    damage(tmp_path / "ck", 1)
    damage(tmp_path / "ck", 2)
    with Checkpoints(tmp_path / "ck") as checkpoints:
        with pytest.raises(CheckpointError, match="step 2.*step 1") as caught:
            checkpoints.restore(train_state())
        assert "\n" not in str(caught.value)
        assert checkpoints.latest() == 2  # nothing is deleted unless something older was whole


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "ck") as checkpoints, pytest.raises(CheckpointError, match="there is none"):
        checkpoints.restore(train_state())
    with pytest.raises(CheckpointError, match="no weights here"):
        load_weights(tmp_path / "missing", train_state())
    assert not (tmp_path / "missing").exists()


def test_checkpoint_of_another_model_is_refused(tmp_path):
    save_weights(tmp_path / "model", {"w": jnp.ones((4, 4))})
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "model", {"w": jnp.ones((4, 5))})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8, jnp.bool_])
def test_a_fingerprint_knows_where_every_value_lies(dtype):
    """Rows in another order, two values exchanged, two signs turned: each has the sum of the bits that it had."""
    signs = jnp.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 0, 0]]).astype(dtype)
    values = signs if dtype == jnp.bool_ else 2 * signs - 1
    exchanged = values.at[0, :2].set(values[0, 1::-1])
    others = (values, values[::-1], values[:, ::-1], jnp.roll(values, 1, axis=1), exchanged)
    assert len({fingerprint({"w": value}) for value in others}) == len(others)

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from train.optimizer import OptimizerConfig, create, schedule


@pytest.mark.parametrize("steps", [1, 2, 10, 300])
def test_the_rate_warms_up_to_its_peak_and_falls(steps):
    config = OptimizerConfig(rate=0.5, warmup=0.1)
    rates = np.array([float(schedule(config, steps)(step)) for step in range(steps + 1)])
    peak = rates.argmax()
    assert rates[0] == 0 and rates.max() == pytest.approx(0.5) and rates.min() >= 0
    assert peak == max(1, min(round(0.1 * steps), steps - 1))
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    if steps > 2:
        assert rates[-1] == pytest.approx(0.05)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(kind="adamw", clip=1.0)
    params = {"up": jnp.ones((1, 4, 4)), "norm": jnp.ones(4)}
    small = jax.tree.map(lambda x: 0.1 * x / 20**0.5, params)  # global norm 0.1
    large = jax.tree.map(lambda x: 1e6 * x, small)

    def after(grads):
        tx = create(config, 10)
        state = tx.init(params)
        moments = tx.update(grads, state, params)[1]
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moments) if leaf.ndim)

    assert after(large) == pytest.approx(10 * after(small), rel=1e-4)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_weight_decay_pulls_matrices_and_leaves_vectors(kind):
    config = OptimizerConfig(kind=kind, weight_decay=0.5, rate=0.1, warmup=0.0)
    params = {"up": jnp.ones((1, 4, 4)), "norm": jnp.ones(4)}
    tx = create(config, 10)
    state, grads = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert float(params["up"].max()) < 1.0
    if kind == "adamw":
        assert float(params["norm"].min()) == 1.0

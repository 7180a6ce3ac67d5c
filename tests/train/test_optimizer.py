import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ratchet.train.optimizer import OptimizerConfig, create, final_weights, running_average, schedule


@pytest.mark.parametrize("steps", [2, 10, 300])
def test_the_rate_warms_up_to_its_peak_and_falls(steps):
    config = OptimizerConfig(rate=0.5, warmup=0.1)
    rates = np.array([float(schedule(config, steps)(step)) for step in range(steps + 1)])
    peak = rates.argmax()
    assert rates[0] == 0 and rates.max() == pytest.approx(0.5) and rates.min() >= 0
    assert peak == max(1, min(round(0.1 * steps), steps - 1))
    assert (np.diff(rates[: peak + 1]) > 0).all() and (np.diff(rates[peak:]) < 0).all()
    if steps > 2:
        assert rates[-1] == pytest.approx(0.05)


@pytest.mark.parametrize("schedule_of", ["cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (1, 0.0), (10, 0.0)])
def test_without_a_warm_up_the_first_step_has_the_whole_rate(steps, warmup, schedule_of):
    rate = schedule(OptimizerConfig(rate=0.5, warmup=warmup, schedule=schedule_of), steps)
    assert rate(0) == 0.5 and rate(steps) == pytest.approx(0.05)


@pytest.mark.parametrize("steps", [2, 10, 300])
def test_a_stable_rate_stays_at_its_peak_until_the_last_fifth(steps):
    config = OptimizerConfig(rate=0.5, warmup=0.1, schedule="wsd")
    rates = np.array([float(schedule(config, steps)(step)) for step in range(steps + 1)])
    assert rates[0] == 0 and rates.max() == pytest.approx(0.5)
    if steps == 300:
        np.testing.assert_allclose(rates[30:241], 0.5)
        np.testing.assert_allclose(np.diff(rates[240:301]), -0.45 / 60, rtol=1e-4)
    if steps > 2:
        assert rates[-1] == pytest.approx(0.05)


def test_gradients_are_clipped_by_their_global_norm():
    config = OptimizerConfig(kind="adamw", clip=1.0)
    params = {"up": jnp.ones((1, 4, 4)), "norm": jnp.ones(4)}
    small = jax.tree.map(lambda x: 0.1 * x / 20**0.5, params)  # global norm 0.1
    large = jax.tree.map(lambda x: 1e6 * x, small)

    def after(grads):
        tx = create(config)
        state = tx.init(params)
        moments = tx.update(grads, state, params, rate=1e-3)[1]
        return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(moments) if leaf.ndim)

    assert after(large) == pytest.approx(10 * after(small), rel=1e-4)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_weight_decay_pulls_matrices_and_leaves_vectors(kind):
    config = OptimizerConfig(kind=kind, weight_decay=0.5)
    params = {"up": jnp.ones((1, 4, 4)), "norm": jnp.ones(4)}
    tx = create(config)
    state, grads = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params, rate=0.1)
        params = optax.apply_updates(params, updates)
    assert float(params["up"].max()) < 1.0
    if kind == "adamw":
        assert float(params["norm"].min()) == 1.0


@pytest.mark.long
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_the_weights_kept_are_the_mean_of_the_last_ones_and_training_is_the_same(kind):
    rng, params = np.random.default_rng(0), {"up": jnp.ones((1, 4, 4)), "norm": jnp.ones(4)}
    grads = [jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params) for _ in range(40)]

    def trained(share):
        tx, now, path = create(OptimizerConfig(kind=kind, average=share)), params, []
        state = tx.init(now)
        for g in grads:
            updates, state = tx.update(g, state, now, rate=3e-3)
            now = optax.apply_updates(now, updates)
            path.append(now)
        return path, final_weights(state, now)

    (plain, last), (path, mean) = trained(0.0), trained(0.25)
    for name in params:
        np.testing.assert_array_equal(plain[-1][name], path[-1][name])
        np.testing.assert_array_equal(last[name], plain[-1][name])
        expected = np.zeros(path[0][name].shape)  # the first step counts whole, so the start is forgotten
        for t, weights in enumerate(path):
            expected += (np.asarray(weights[name], np.float64) - expected) / (1 + 0.25 * t)
        np.testing.assert_allclose(mean[name], expected, rtol=1e-5)
        assert np.abs(mean[name] - path[-1][name]).max() > 1e-4


def test_a_short_and_a_long_run_average_the_same_share_of_their_steps():
    for steps in (100, 1000):
        tx = create(OptimizerConfig(kind="adamw", average=0.1))
        at, state = {"norm": jnp.zeros(())}, tx.init({"norm": jnp.zeros(())})
        average = state[-1]
        for step in range(1, steps + 1):  # weights that rise with the step: the lag of the mean is its window
            _, average = running_average(0.1).update({"norm": jnp.float32(step)}, average, at)
        assert steps - float(average.mean["norm"]) == pytest.approx(steps / 11, rel=0.1)

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import arrays
from support import assert_same_bits, awaken, full_probs, random_examples

from ratchet.bootstrap.examples import example, one_hot
from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train import lora
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.trainer import EngineConfig, Training, fit, loss_sums, mean_loss

QWEN = DecoderConfig(
    vocab_size=64, width=32, layers=2, heads=4, kv_heads=2, mlp_width=48, max_length=64, conv=1,
    family=Family("Qwen2ForCausalLM", activation="silu", gated=True, biases=("query", "key", "value")),
)


@pytest.fixture(scope="module")
def model():
    graphdef, params = decoder.create(QWEN, 0)
    return graphdef, awaken(params)


def noisy(params, rank=3):
    made = lora.create(params, rank, 0)
    return {name: x + 0.1 * jax.random.normal(jax.random.key(i), x.shape) for i, (name, x) in enumerate(made.items())}


def training(graphdef, examples, *, steps=60, devices=1, rank=4):
    batches = Batches([(examples, 8)], seed=1, steps=steps, columns=48, row_multiple=devices)
    mesh = make_mesh(MeshConfig(data=1, fsdp=devices), jax.devices()[:devices])
    return Training(graphdef, batches, OptimizerConfig("adamw", 1e-2), mesh, EngineConfig(), {"arm": "lora"}, rank=rank)


def test_a_new_adapter_changes_nothing(model):
    graphdef, params = model
    made = lora.create(params, 3, 0)
    assert made["query_into"].shape == (2, 32, 3) and made["output_out"].shape == (2, 3, 32)
    assert made["down_into"].shape == (2, 48, 3) and made["key_out"].shape == (2, 3, 16)
    assert_same_bits(lora.merged(params, made), params)


def test_merged_weights_give_what_the_adapters_give(model):
    graphdef, params = model
    adapters = noisy(params)
    batch = next(training(graphdef, random_examples(20)).batches.iterate(0, np.arange(4)))
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    beside = loss_sums(graphdef, params, batch, EngineConfig(), adapters)
    within = loss_sums(graphdef, lora.merged(params, adapters), batch, EngineConfig())
    changed = lora.rows_added(params, adapters | {"embedding_rows": jnp.ones((2, 32))}, (3, 9))
    assert [*changed[1]] == [*adapters]
    assert int(jnp.sum(changed[0]["embedding"][...] != params["embedding"][...])) == 2 * 32
    assert float(beside.loss) == pytest.approx(float(within.loss), rel=1e-5)
    assert float(beside.loss) != pytest.approx(float(loss_sums(graphdef, params, batch, EngineConfig()).loss), rel=1e-3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sizes", [*(pytest.param(s, marks=pytest.mark.long) for s in ((1, 1), (4, 1))), (2, 2)])
def test_rows_of_new_tokens_are_trained_beside_the_layers_and_merged(tied, sizes):
    """The other rows stay as they are; what is merged gives the loss of what was trained."""
    config, new = replace(QWEN, family=replace(QWEN.family, tied=tied)), (40, 63)
    graphdef, params = decoder.create(config, 0)
    params, said = awaken(params), (40, 5, 63, 2)
    examples = [example((20 + n, 40), said, one_hot(said), "seed", {"number": n}) for n in range(8)]
    mesh = make_mesh(MeshConfig(1, *sizes), jax.devices()[: sizes[0] * sizes[1]])
    run = replace(training(graphdef, examples, devices=sizes[0]), new=new, mesh=mesh)
    losses = []
    trained = fit(run, params, None, lambda step, values: losses.append(values["loss"]))
    for name, along in (("embedding", 0), *(() if tied else (("head", 1),))):
        before, after = (np.moveaxis(np.asarray(p[name][...]), along, 0) for p in (params, trained))
        assert [i for i in range(64) if not np.array_equal(before[i], after[i])] == [*new]
    assert losses[-1] < 0.3 * losses[0]
    assert mean_loss(graphdef, trained, examples) == pytest.approx(losses[-1], rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("devices", [1, 4])
def test_training_learns_through_matrices_of_the_rank_alone(model, devices):
    graphdef, params = model
    examples = random_examples(16)
    trained = fit(training(graphdef, examples, devices=devices), params, None, lambda step, values: None)
    assert mean_loss(graphdef, trained, examples) < 0.8 * mean_loss(graphdef, params, examples)
    before, after = arrays(params), arrays(trained)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.split("'")[3] for name in changed} == set(lora.ADAPTED)
    for name in changed:
        change = (after[name] - before[name])[0]
        matrix = change.reshape(-1, change.shape[-1]) if "output" in name else change.reshape(change.shape[0], -1)
        assert np.linalg.matrix_rank(matrix, tol=1e-4) <= 4


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_own_yes_and_no_are_learned_with_its_embedding_and_head_as_they_were(tied):
    """Nothing is added to a vocabulary, so that nothing but the layers has to learn."""
    graphdef, params = decoder.create(replace(QWEN, family=replace(QWEN.family, tied=tied)), 0)
    params, yes, no, end = awaken(params), 5, 9, 2
    examples = [
        example((20 + word, 30 + number), (answer, end), one_hot((answer, end)), "seed", {"number": number})
        for number in range(8)
        for word, answer in enumerate((yes, no))
    ]
    trained = fit(training(graphdef, examples), params, None, lambda step, values: None)
    for word, right, wrong in ((20, yes, no), (21, no, yes)):
        probs = full_probs(graphdef, trained, (word, 33, right))
        assert probs[1, right] > 0.6 > 0.2 > probs[1, wrong] and probs[2, end] > 0.6
    for name in ("embedding", "head")[: 2 - tied]:
        np.testing.assert_array_equal(trained[name][...], params[name][...])


@pytest.mark.long
def test_resumed_adapters_are_those_of_an_unbroken_run(model, tmp_path):
    graphdef, params = model
    run = training(graphdef, random_examples(16), steps=12)
    whole = fit(run, params, None, lambda step, values: None)

    class Killed(Exception):
        pass

    def until_7(step, values):
        if step == 7:
            raise Killed

    saving = replace(run, engine=EngineConfig(save_every=3))
    with Checkpoints(tmp_path / "c", keep_every=3) as checkpoints, pytest.raises(Killed):
        fit(saving, params, checkpoints, until_7)
    with Checkpoints(tmp_path / "c", keep_every=3) as checkpoints:
        assert checkpoints.latest() == 6
        assert_same_bits(fit(saving, params, checkpoints, lambda step, values: None), whole)

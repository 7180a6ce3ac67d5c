"""Adapters as PEFT takes them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support import LLAMA

from ratchet.models import huggingface, peft
from ratchet.models.architectures import FolderError
from ratchet.models.decoder import create
from ratchet.train import lora

RANK = 3


def trained(params, seed: int):
    """Weights with adapters merged whose second factor has numbers too."""
    key = jax.random.key(seed)
    adapters = lora.create(params, RANK, seed)
    made = {n: 0.02 * jax.random.normal(key, x.shape) if n.endswith("_out") else x for n, x in adapters.items()}
    return lora.merged(params, made)


@pytest.fixture(scope="module")
def before():
    return create(LLAMA, 0)[1]


@pytest.mark.parametrize("generations", [1, 2])
def test_the_base_with_what_is_written_is_what_was_trained(before, tmp_path, generations):
    after = before
    for seed in range(generations):
        after = trained(after, seed)
    rank = generations * RANK
    peft.save(tmp_path, LLAMA, (before, after), rank, "some/base", "float32")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert settings["r"] == settings["lora_alpha"] == rank and settings["base_model_name_or_path"] == "some/base"
    changed = set()
    for (t, old), (_, new) in zip(huggingface.each(LLAMA, before), huggingface.each(LLAMA, after), strict=True):
        name = f"base_model.model.{t.name.removesuffix('.weight')}"
        if f"{name}.lora_A.weight" in held:
            into, out = held.pop(f"{name}.lora_A.weight"), held.pop(f"{name}.lora_B.weight")
            assert into.shape == (rank, old.shape[1]) and out.shape == (old.shape[0], rank)
            np.testing.assert_allclose(old + out @ into, new, atol=2e-6)
            changed.add(name.rpartition(".")[2])
        else:
            np.testing.assert_array_equal(old, new)
    assert not held and changed == set(settings["target_modules"]) and len(changed) == 7


def test_a_layer_without_a_change_has_adapters_that_add_nothing(tmp_path):
    """Else PEFT would miss those of a module that it makes in every layer."""
    two = dataclasses.replace(LLAMA, layers=2)
    params = create(two, 0)[1]
    is_up = lambda path: "up" in [str(getattr(key, "key", "")) for key in path]
    after = jax.tree_util.tree_map_with_path(lambda path, x: x.at[1].add(1.0) if is_up(path) else x, params)
    peft.save(tmp_path, two, (params, after), RANK, "base", "float32")
    held = load_file(tmp_path / "adapter_model.safetensors")
    ups = [f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_{half}.weight" for layer in (0, 1) for half in "AB"]
    assert sorted(held) == ups and not (held[ups[1]] @ held[ups[0]]).any() and (held[ups[3]] @ held[ups[2]]).any()


def test_numbers_are_of_the_dtype_that_is_asked_for(before, tmp_path):
    peft.save(tmp_path, LLAMA, (before, trained(before, 0)), RANK, "base", "float16")
    assert {x.dtype for x in load_file(tmp_path / "adapter_model.safetensors").values()} == {np.dtype("float16")}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda base: base, "nothing of base was changed"),
        (lambda base: trained(trained(base, 0), 1), "changed by a rank above 3"),
        (lambda base: moved(base, "embedding"), "embed_tokens.weight was trained, which adapters do not hold"),
        (lambda base: moved(base, "final_norm"), "model.norm.weight was trained"),
    ],
)
def test_what_adapters_cannot_hold_is_one_line(before, tmp_path, change, why):
    with pytest.raises(FolderError, match=f"{why}.*; leave out --adapters"):
        peft.save(tmp_path / "out", LLAMA, (before, change(before)), RANK, "base", "float32")
    assert not (tmp_path / "out").exists()


def moved(params, name: str):
    """Weights of which one parameter has changed."""
    is_it = lambda path: str(path[0].key) == name
    return jax.tree_util.tree_map_with_path(lambda path, x: x + 1 if is_it(path) else x, params)


def test_a_change_of_low_rank_is_found_again_and_of_another_the_nearest():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 30))
    into, out = peft.factored(low, 4)
    np.testing.assert_allclose(out @ into, low, atol=1e-9)
    into, out = peft.factored(low, 6)
    assert into.shape == (6, 30) and out.shape == (50, 6)
    np.testing.assert_allclose(out @ into, low, atol=1e-9)
    into, out = peft.factored(np.asarray(jnp.eye(3)), 8)
    np.testing.assert_allclose(out @ into, np.eye(3), atol=1e-9)
    best = np.linalg.svd(low)[1]
    into, out = peft.factored(low, 3)
    assert np.linalg.norm(low - out @ into) == pytest.approx(best[3], rel=1e-6)

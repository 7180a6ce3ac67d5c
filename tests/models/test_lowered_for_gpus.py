"""What JAX hands to a GPU's compiler, by lowering alone: no GPU is here, and nothing runs."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from ratchet.models import cudnn, decoder, products, programs
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.kernels import Kernel, Scores, attend_rows
from ratchet.train import loss, trainer
from ratchet.train.trainer import EngineConfig

ROWS, LENGTH, HEADS, KV_HEADS, WIDTH = 2, 192, 4, 2, 64
ONCE = {"__cudnn$fmhaSoftmax": 1, "__cudnn$fmhaSoftmaxBackward": 1}


@pytest.fixture
def hopper(monkeypatch):
    """JAX is told of a Hopper card with a new cuDNN, and Ratchet of a GPU."""
    from jax._src.cudnn import fused_attention_stablehlo as by_jax

    monkeypatch.setattr(by_jax, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(by_jax, "check_compute_capability", lambda needed: True)
    monkeypatch.setattr(by_jax, "is_cuda_compute_capability_equal", lambda one: False)
    monkeypatch.setattr(cudnn, "takes_runs", lambda: True)
    monkeypatch.setattr(cudnn, "capability", lambda: 9.0)
    for module in (programs, products, loss, trainer, decoder):
        monkeypatch.setattr(module, "platform", lambda *_: "gpu")


def lowered(function, *shapes) -> str:
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def asked_of_cudnn(text: str) -> Counter:
    return Counter(re.findall(r"__cudnn\$\w+", text))


@pytest.mark.parametrize("segments", [1, 3, 20, 0])
@pytest.mark.parametrize("version", [91300, 91400])
@pytest.mark.parametrize("window", [0, 50])
def test_cudnn_attends_in_packed_rows_without_a_mask_forward_and_backward(
    hopper, monkeypatch, segments, version, window
):
    """Where nobody knows how many segments there are, the mask is a bias, as long as a row squared, and so it is of
    models whose layers slide, by a cuDNN that cannot be told of windows."""
    monkeypatch.setattr(cudnn, "_version", lambda: version)
    of = lambda heads: jax.ShapeDtypeStruct((ROWS, LENGTH, heads, WIDTH), jnp.bfloat16)
    told = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)

    def summed(q, k, v, s, slides):
        seen = jnp.where(slides, window, LENGTH) if window else None
        scores, kernel = Scores(0.125, window=window), Kernel(segments=segments)
        return attend_rows(q, k, v, s, slides if window else None, seen, scores, kernel).astype(jnp.float32).sum()

    slides = jax.ShapeDtypeStruct((), jnp.bool_)
    text = lowered(jax.grad(summed, (0, 1, 2)), of(HEADS), of(KV_HEADS), of(KV_HEADS), told, slides)
    square = f"{LENGTH}x{LENGTH}x" in text
    if segments and (not window or version == 91300):
        times = 2 if window else 1  # of which a program runs one
        assert asked_of_cudnn(text) == {name: times * count for name, count in ONCE.items()} and not square
        assert {*re.findall(r"sliding_window_length\W+(?:22: )?(\d+)", text)} == {"0", str(window)}
    else:
        assert {*asked_of_cudnn(text)} == {"__cudnn$fmhaScaleBiasSoftmax", "__cudnn$fmhaScaleBiasSoftmaxBackward"}
        assert square, "so that it would show above"


def test_a_training_step_attends_once_a_layer_in_each_direction(hopper, monkeypatch):
    """Without remat a layer keeps what takes long, attention among it: nothing attends a second time."""
    family = Family("Qwen3ForCausalLM", query_key_norm=True, activation="silu", gated=True, scaled_embedding=False)
    config = DecoderConfig(vocab_size=128, width=128, layers=3, heads=HEADS, kv_heads=KV_HEADS, head_width=WIDTH,
                           mlp_width=128, max_length=LENGTH, conv=1, family=family)  # fmt: skip
    graphdef, params = decoder.shapes(config)
    rows, predicted, keep = (ROWS, LENGTH), (ROWS, 64), 4
    ints = {name: jax.ShapeDtypeStruct(rows, jnp.int32) for name in ("tokens", "positions", "segments")}
    ints |= {name: jax.ShapeDtypeStruct(predicted, jnp.int32) for name in ("predict", "labels")}
    floats = {name: jax.ShapeDtypeStruct(predicted, jnp.float32) for name in ("weights", "tail")}
    kept = {"ids": jax.ShapeDtypeStruct((*predicted, keep), jnp.int32)}
    kept |= {"probs": jax.ShapeDtypeStruct((*predicted, keep), jnp.float32)}

    def objective(params, batch):
        return trainer.loss_sums(graphdef, params, batch, EngineConfig(dtype="bfloat16"), segments=3).loss

    text = lowered(jax.grad(objective), params, ints | floats | kept)
    assert asked_of_cudnn(text) == ONCE, "the layers share one function in each direction"
    assert f"{LENGTH}x{LENGTH}x" not in text
    monkeypatch.setattr(decoder, "_LONG", ("dot_general",))
    again = lowered(jax.grad(objective), params, ints | floats | kept)
    assert asked_of_cudnn(again)["__cudnn$fmhaSoftmax"] == 2, "so that a second time would show"

"""Small random models of every family, against transformers."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from etils import epath
from families import random_model
from flax import nnx
from safetensors.numpy import load_file, save_file
from support import assert_same_bits

from ratchet.models import huggingface
from ratchet.models.architectures import FolderError, read_config
from ratchet.models.decoder import DecoderConfig, create, shapes
from ratchet.models.family import Family
from ratchet.models.huggingface import load, save
from ratchet.models.sampler import Request, Sampler
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding

SIZES = {
    "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256, "initializer_range": 0.2, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
GEMMA = SIZES | {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 8}
FAMILIES = {
    "llama-2": transformers.LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama-3.1": transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3 | {"rope_theta": 500_000.0}),
    "llama-linear": transformers.LlamaConfig(**SIZES, rope_parameters={"rope_type": "linear", "factor": 4.0,
                                                                       "rope_theta": 10_000.0}),
    "llama-biased": transformers.LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "smollm": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "mistral": transformers.MistralConfig(**SIZES, head_dim=32, sliding_window=8),
    "mistral-0.3": transformers.MistralConfig(**SIZES, sliding_window=None),
    "qwen2.5": transformers.Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-sliding": transformers.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=2),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
    "gemma-2": transformers.Gemma2Config(**GEMMA, attn_logit_softcapping=5.0, final_logit_softcapping=6.0),
    "gemma-3": transformers.Gemma3TextConfig(**GEMMA | {"num_hidden_layers": 7}, rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }),
}


def shardings(mesh):
    return lambda params: state_sharding(mesh, params)


ONE = make_mesh(MeshConfig(), jax.devices()[:1])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """(transformers' model, its folder, our config, our weights)"""
    model, folder = random_model(FAMILIES[request.param]), epath.Path(tmp_path_factory.mktemp("family"))
    model.save_pretrained(folder)
    config = read_config(folder)
    return model, folder, config, load(folder, config, shardings(ONE))


def logits(config, params, tokens_BT, dtype=None):
    graphdef, _ = shapes(config)
    positions = np.broadcast_to(np.arange(tokens_BT.shape[1]), tokens_BT.shape)

    @jax.jit
    def run(params, tokens_BT):
        merged = nnx.merge(graphdef, params)
        hidden = merged(tokens_BT, positions, np.ones_like(positions), dtype=dtype)
        return merged.logits(hidden, merged.head_DV().astype(hidden.dtype))

    return run(params, tokens_BT)


def tokens(rows=2, length=40):
    return np.random.default_rng(0).integers(3, 128, (rows, length)).astype(np.int32)


def their_logits(model, tokens_BT):
    with torch.no_grad():
        return model(torch.tensor(tokens_BT, dtype=torch.long)).logits.float().numpy()


def test_logits_are_those_of_transformers(family):
    model, _, config, params = family
    want, got = their_logits(model, tokens()), logits(config, params, tokens())
    assert np.abs(want).max() > 1
    assert np.abs(got - want).max() <= 1e-4 * np.abs(want).max()


def test_bfloat16_is_within_its_rounding(family):
    model, _, config, params = family
    want, got = their_logits(model, tokens()), logits(config, params, tokens(), jnp.bfloat16)
    rounded = their_logits(theirs_in_bfloat16(model), tokens())
    ours, their = (np.sqrt(np.mean((x - want) ** 2)) for x in (got, rounded))
    assert ours <= 1.25 * their


def theirs_in_bfloat16(model):
    copy = transformers.AutoModelForCausalLM.from_config(model.config).eval()
    copy.load_state_dict(model.state_dict())
    return copy.to(torch.bfloat16)


AT_LENGTH = ("qwen2-sliding", "mistral", "llama-biased", "llama-linear", "llama-2", "smollm")
"""Families whose greedy texts are compared in `make test-long`; logits are, of all of them, in each test."""


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=pytest.mark.long if name in AT_LENGTH else ()) for name in FAMILIES],
    indirect=True,
)  # fmt: skip
def test_greedy_continuations_are_identical(family):
    model, _, config, params = family
    prompts = tokens(2, 12)
    sampler = Sampler(shapes(config)[0], slots=2, new_tokens=64, keep=4)
    requests = [Request(i, tuple(map(int, row))) for i, row in enumerate(prompts)]
    out = sampler(params, requests, seed=0, temperature=0.0, stop=(127_000,))
    with torch.no_grad():
        want = model.generate(torch.tensor(prompts, dtype=torch.long), max_new_tokens=64, min_new_tokens=64,
                              do_sample=False, eos_token_id=None, pad_token_id=0)
    np.testing.assert_array_equal([s.tokens for s in out], want[:, 12:].numpy())


def test_there_and_back_and_there_again_is_the_same(family, tmp_path):
    model, folder, config, params = family
    save(epath.Path(tmp_path), config, params, "float32")
    again = read_config(epath.Path(tmp_path))
    assert again == config
    assert_same_bits(load(epath.Path(tmp_path), again, shardings(ONE)), params)
    ours, their = (load_file(f / "model.safetensors") for f in (tmp_path, folder))
    assert ours.keys() == their.keys()
    for name, array in their.items():
        np.testing.assert_array_equal(ours[name], array)
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_allclose(their_logits(loaded, tokens()), their_logits(model, tokens()), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Qwen2 folder, whose every part a test may break in a copy."""
    folder = tmp_path_factory.mktemp("whole")
    random_model(FAMILIES["qwen2.5"]).save_pretrained(folder)
    return folder


def copied(folder, place, tensors=None, **config):
    place = epath.Path(place)
    given = json.loads((folder / "config.json").read_text()) | config
    (place / "config.json").write_text(json.dumps(given))
    save_file(load_file(folder / "model.safetensors") | (tensors or {}), place / "model.safetensors")
    return place


def read(place):
    return load(place, read_config(place), shardings(ONE))


@pytest.mark.long
def test_a_mesh_of_eight_holds_the_same_weights(folder):
    config, mesh = read_config(epath.Path(folder)), make_mesh(MeshConfig(2, 2, 2))
    split = load(epath.Path(folder), config, shardings(mesh))
    assert_same_bits(split, read(epath.Path(folder)))
    query = split["layers"]["query"][...]
    assert {shard.data.shape for shard in query.addressable_shards} == {(4, 32, 2, 16)}
    np.testing.assert_allclose(logits(config, split, tokens()), logits(config, read(epath.Path(folder)), tokens()),
                               rtol=1e-4, atol=1e-4)


def test_several_files_with_an_index_are_one_model(folder, tmp_path, monkeypatch):
    want = read(epath.Path(folder))
    monkeypatch.setattr(huggingface, "_FILE_BYTES", 60_000)
    config = read_config(epath.Path(folder))
    save(epath.Path(tmp_path), config, want, "float32")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 3 and all(path.stat().st_size < 70_000 for path in files)
    assert_same_bits(read(epath.Path(tmp_path)), want)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(their_logits(loaded, tokens()), logits(config, want, tokens()), rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_come_back_as_they_were(folder, tmp_path, dtype):
    params = read(epath.Path(folder))
    narrow = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), params)
    save(epath.Path(tmp_path), read_config(epath.Path(folder)), params, dtype)
    assert_same_bits(read(epath.Path(tmp_path)), narrow)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype


SCALED = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture is GPT2LMHeadModel; there are LlamaForCausalLM"),
        ({"rope_parameters": SCALED}, "scaled by yarn"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"hidden_act": "relu"}, "the activation is relu"),
        ({"layer_types": ["full_attention"]}, "1 entries for 4 layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"vocab_size": 64}, "model.embed_tokens.weight is [128, 64]; config.json makes it [64, 64]"),
        ({"num_hidden_layers": 3, "layer_types": None}, "has the tensor model.layers.3.input_layernorm.weight and 11"),
        ({"num_hidden_layers": 5, "layer_types": None}, "lacks the tensor model.layers.4.input_layernorm.weight"),
        ({"tie_word_embeddings": False}, "lacks the tensor lm_head.weight, unlike"),
    ],
)
def test_another_model_than_the_decoder_is_one_clear_line(folder, tmp_path, config, named):
    with pytest.raises(FolderError) as error:
        read(copied(folder, tmp_path, **config))
    assert named in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_broken_folders_are_one_clear_line_each(folder, tmp_path):
    place = copied(folder, tmp_path, {"model.norm.weight": np.ones(64, np.int8)})
    with pytest.raises(FolderError, match="model.norm.weight has dtype I8"):
        read(place)
    (place / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(FolderError, match="model.safetensors: cannot be read"):
        read(place)
    (place / "model.safetensors").unlink()
    with pytest.raises(FolderError, match="no model.safetensors"):
        read(place)
    (place / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FolderError, match="only pickled weights"):
        read(place)
    (place / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(FolderError, match="index.json: its weight_map"):
        read(place)
    (place / "config.json").write_text("[")
    with pytest.raises(FolderError, match="config.json: "):
        read(place)
    (place / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(FolderError, match="lacks 'vocab_size'"):
        read(place)
    (place / "config.json").unlink()
    with pytest.raises(FolderError, match="no config.json"):
        read(place)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("alone", [False, True])
def test_a_tied_embedding_may_be_written_as_the_head_too(folder, tmp_path, alone, monkeypatch):
    """Qwen3-0.6B is published with both; transformers reads the head alone as well."""
    monkeypatch.setattr(huggingface, "_COMPARED", 1000)
    place, tensors = copied(folder, tmp_path), load_file(folder / "model.safetensors")
    tensors[HEAD] = tensors.pop(EMBEDDING) if alone else tensors[EMBEDDING]
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    ours = read(place)["embedding"][...]
    np.testing.assert_array_equal(ours, tensors[HEAD])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
    np.testing.assert_array_equal(ours, theirs.get_output_embeddings().weight.detach())
    np.testing.assert_array_equal(ours, theirs.get_input_embeddings().weight.detach())


def test_a_head_unlike_the_embedding_that_it_is_tied_to_is_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface, "_COMPARED", 1000)
    embedding = load_file(folder / "model.safetensors")[EMBEDDING]
    last = embedding.copy()
    last[-1, -1] += 1
    for head in (last, embedding[:-1]):
        place = copied(folder, tmp_path, {HEAD: np.ascontiguousarray(head)})
        with pytest.raises(FolderError, match=f"{HEAD} differs from {EMBEDDING}"):
            read(place)


@pytest.fixture
def halves(folder, tmp_path):
    """The same folder in two files, and the weight_map of an index that fits them."""
    place, tensors = copied(folder, tmp_path), load_file(folder / "model.safetensors")
    (place / "model.safetensors").unlink()
    where = {name: f"half-{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in sorted(set(where.values())):
        save_file({name: tensors[name] for name in where if where[name] == file}, place / file)
    return place, where


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("model.norm.weight", "half-0.safetensors", "half-0.safetensors has no tensor model.norm.weight"),
        ("model.norm.weight", "half-2.safetensors", "names half-2.safetensors, which is not there"),
        ("model.norm.weight", "../half-1.safetensors", "names ../half-1.safetensors, which lies outside the folder"),
        ("model.norm.weight", "/half-1.safetensors", "names /half-1.safetensors, which lies outside the folder"),
        ("model.norm.weight", None, "its weight_map does not name a file for every tensor"),
        ("model.norm.bias", "half-1.safetensors", "has the tensor model.norm.bias, unlike its config.json"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_one_line(halves, name, file, line):
    place, where = halves
    index = place / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where | {name: file}}))
    with pytest.raises(FolderError) as caught:
        read(place)
    assert str(caught.value).startswith(f"{index}: ") and line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "half-1.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(halves, name, make):
    """A pipe would be waited for."""
    place, where = halves
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (place / name).unlink()
    make(place / name)
    with pytest.raises(FolderError, match=f"{name}: is no file; fetch it again"):
        read(place)


def test_what_an_index_leaves_out_or_is_no_index_is_one_line(halves):
    place, where = halves
    index = place / "model.safetensors.index.json"
    del where["model.norm.weight"]
    for text, line in (
        (json.dumps({"weight_map": where}), "lacks the tensor model.norm.weight, unlike"),
        (json.dumps({"weight_map": list(where)}), "its weight_map does not name"),
        ("[]", "holds no mapping"),
        ("[", "cannot be read"),
    ):
        index.write_text(text)
        with pytest.raises(FolderError, match=line) as caught:
            read(place)
        assert str(index) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_link_to_a_file_that_is_gone_is_named(folder, tmp_path, name):
    place = copied(folder, tmp_path)
    if name != "config.json":
        (place / "model.safetensors").unlink()
    (place / name).unlink(missing_ok=True)
    os.symlink("../blobs/0123", place / name)
    with pytest.raises(FolderError, match=f"{name}: is a link to ../blobs/0123, which is not there; fetch it again"):
        read(place)


def test_a_decoder_that_no_library_knows_is_not_exported(tmp_path):
    config = DecoderConfig(vocab_size=64, width=32, layers=1)
    with pytest.raises(FolderError, match="transformers has no such decoder"):
        save(epath.Path(tmp_path), config, create(config, 0)[1], "float32")
    assert not list(tmp_path.iterdir())


_LOAD = """
import os, resource, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # stacks of threads count as memory: as few as can be
import jax
from etils import epath
from ratchet.models.architectures import read_config
from ratchet.models.huggingface import load
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding

place, mesh = epath.Path(sys.argv[1]), make_mesh(MeshConfig(), jax.devices()[:1])
jax.jit(lambda: jax.numpy.ones(3))()
held = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (held + int(sys.argv[2]),) * 2)
jax.block_until_ready(load(place, read_config(place), lambda params: state_sharding(mesh, params)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_beside_the_weights_a_host_holds_about_one_tensor(tmp_path):
    """The system gives no more than the limit: what a file is mapped to does not count."""
    family = Family("LlamaForCausalLM", scaled_embedding=False, activation="silu", gated=True)
    config = DecoderConfig(vocab_size=32_768, width=1024, layers=2, heads=8, kv_heads=8, mlp_width=1024, max_length=64,
                           conv=1, family=family)
    params = create(config, 0)[1]
    save(epath.Path(tmp_path), config, params, "float32")
    weights, largest = sum(leaf.nbytes for leaf in jax.tree.leaves(params)), 4 * config.vocab_size * config.width

    def loaded_within(room):
        words = [sys.executable, "-c", _LOAD, str(tmp_path), str(int(room))]
        around = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        return subprocess.run(words, capture_output=True, text=True, env=around)

    enough, too_little = (loaded_within(weights + room) for room in (1.2 * largest + 2**26, 0.5 * largest))
    assert enough.returncode == 0, enough.stderr[-2000:]
    assert too_little.returncode and "Out of memory" in too_little.stderr, "the limit counts what is loaded"

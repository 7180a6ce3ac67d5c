"""What config.json says, against transformers' own configuration classes."""

import json

import numpy as np
import pytest
from etils import epath
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ratchet.models.architectures import FolderError, config_json, read_config
from ratchet.models.family import frequencies_and_window

SIZES = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4,
         "intermediate_size": 96}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NAMES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma2": "Gemma2",
         "gemma3_text": "Gemma3"}
WRITTEN = {
    "llama": {"head_dim": 32, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2,
              "rope_theta": 5e5, "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}},
    "mistral": {"head_dim": 32, "sliding_window": 9, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen2": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "num_key_value_heads": 2},
    "qwen3": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2, "attention_bias": True},
    "gemma2": {"head_dim": 32, "query_pre_attn_scalar": 24, "sliding_window": 9, "final_logit_softcapping": 6.0},
    "gemma3_text": {"head_dim": 32, "sliding_window_pattern": 3, "rope_theta": 2e6, "rope_local_base_freq": 2e4,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "attn_logit_softcapping": 6.0},
}  # fmt: skip
"""Of each family a config.json as transformers 4 writes it, with other numbers than those that an absent key means."""
TRAINING = ("attention_dropout", "initializer_range", "use_cache")
"""Keys that say nothing of what a model computes; their type is not looked at."""
REFUSED = ("rope_theta", "rope_local_base_freq")
"""Keys whose null transformers fails on later, or not, by what other keys say; we refuse it."""


def read(place, kind, config):
    """Our decoder of a config.json, or the line that refuses it."""
    named = {"architectures": [f"{NAMES[kind]}ForCausalLM"]}
    (place / "config.json").write_text(json.dumps({"model_type": kind} | named | config))
    try:
        return read_config(epath.Path(place))
    except FolderError as refused:
        return str(refused)


def class_of(kind, config):
    """transformers' own config of these keys; None where its class refuses them."""
    try:
        return AutoConfig.for_model(**json.loads(json.dumps(config)) | {"model_type": kind})
    except (StrictDataclassError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def written_out(kind, config):
    """The same config.json with every key that the class has."""
    whole = json.loads(class_of(kind, config).to_json_string(use_diff=False))
    return {name: value for name, value in whole.items() if name != "architectures"}


@pytest.mark.parametrize("kind", NAMES)
def test_an_absent_or_null_key_means_what_transformers_says(kind, tmp_path):
    """Both in the words of transformers 4 and written out by 5."""
    given = SIZES | {"num_key_value_heads": 4} | WRITTEN[kind]
    for config in (given, written_out(kind, given)):
        assert not isinstance(read(tmp_path, kind, config), str)
        for name in sorted({*config, *written_out(kind, given)} - {"model_type", *TRAINING}):
            absent = {key: value for key, value in config.items() if key != name}
            for less in (absent, absent | {name: None}):
                ours = read(tmp_path, kind, less)
                if class_of(kind, less) is None or name in SIZES or (name in REFUSED and name in less):
                    assert isinstance(ours, str), less
                else:
                    assert ours == read(tmp_path, kind, written_out(kind, less)), less


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_written_is_read_the_same_here_and_in_transformers(kind, tmp_path):
    given = SIZES | {"num_key_value_heads": 4} | WRITTEN[kind]
    full, mixed = ["full_attention"] * 7, ["full_attention", "sliding_attention", *["full_attention"] * 5]
    for layers in ({}, {"layer_types": full}, *([{"layer_types": mixed}] if kind != "llama" else [])):
        decoder = read(tmp_path, kind, given | layers)
        written = config_json(decoder)
        assert read(tmp_path, kind, written) == read(tmp_path, kind, written_out(kind, written)) == decoder
    assert "layer_types" not in config_json(read(tmp_path, "mistral", given)), "transformers would make it a Ministral"


@pytest.mark.parametrize(
    ("kind", "stray"),
    [
        ("llama", {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 9, "use_sliding_window": True}),
        ("mistral", {"attention_bias": True, "mlp_bias": True, "use_sliding_window": False}),
        ("qwen2", {"attention_bias": True, "query_pre_attn_scalar": 7, "final_logit_softcapping": 3.0}),
        ("gemma2", {"hidden_act": "silu", "sliding_window_pattern": 3, "rope_local_base_freq": 7.0}),
    ],
)
def test_what_another_family_reads_is_left_alone(kind, stray, tmp_path):
    config = SIZES | WRITTEN[kind]
    assert read(tmp_path, kind, config | stray) == read(tmp_path, kind, config)


@pytest.mark.parametrize(
    ("kind", "rope"),
    [
        ("llama", {"rope_scaling": LLAMA3}),
        ("llama", {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}, "rope_theta": 5e5}),
        ("llama", {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64},
                   "original_max_position_embeddings": 16}),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 7e3}}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 7e3, "factor": 2.0}, "rope_theta": 9e3}),
        ("qwen3", {"rope_parameters": {"rope_theta": 7e3}, "rope_scaling": None}),
        ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ("gemma3_text", {"rope_parameters": {"full_attention": {"rope_theta": 7e3}, "sliding_attention": None}}),
        ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_theta": 7e3}}, "rope_theta": 9e3}),
    ],
)  # fmt: skip
def test_rotary_positions_are_those_of_transformers(kind, rope, tmp_path):
    config = SIZES | {"num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 256} | rope
    ours = read(tmp_path, kind, config)
    if kind == "gemma3_text":
        theirs = Gemma3RotaryEmbedding(class_of(kind, config))
        far, near = theirs.full_attention_inv_freq, theirs.sliding_attention_inv_freq
    else:
        far = near = LlamaRotaryEmbedding(class_of(kind, config)).inv_freq
    for slides, want in ((False, far), (True, near)):
        got, _ = frequencies_and_window(ours.family, 32, slides)
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        ("llama", {"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'; it must be a list"),
        ("llama", {"architectures": None}, "the architecture is none; there are Llama"),
        ("llama", {"model_type": "mistral"}, "model_type is 'mistral': Input should be 'llama'"),
        ("llama", {"vocab_size": "640"}, "vocab_size is '640': Input should be a valid integer"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads is 0: Input should be greater than"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers is True: "),
        ("qwen3", {"num_hidden_layers": 2**30}, "num_hidden_layers is 1073741824: Input should be less than"),
        ("llama", {"num_attention_heads": 5}, "heads must divide width"),
        ("llama", {"hidden_act": ["silu"]}, "hidden_act is ['silu']: "),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan: "),
        ("llama", {"per_layer_config": {"1": {"num_key_value_heads": 1}}}, "per_layer_config"),
        ("llama", {"is_causal": False}, "is_causal is false"),
        ("llama", {"layer_types": ["sliding_attention"] * 7}, "7 layers slide, but there is no sliding window"),
        ("llama", {"layer_types": ["chunked_attention"] * 7}, "layer_types.0 is 'chunked_attention': "),
        ("llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "scaled by dynamic; there are default"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
        ("llama", {"rope_scaling": LLAMA3 | {"factor": "8"}}, "factor is '8': "),
        ("llama", {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor is 4.0; it must be below"),
        ("qwen2", {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 7}, "no sliding window"),
        ("qwen3", {"rope_parameters": {"full_attention": {"rope_theta": 7e3}}}, "full_attention"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 7e3}}, "rope_parameters has rope_theta"),
        ("gemma3_text", {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "sliding"),
    ],
)
def test_what_the_decoder_is_not_is_one_line(kind, changes, line, tmp_path):
    said = read(tmp_path, kind, SIZES | {"num_key_value_heads": 4} | changes)
    assert said.startswith(f"{tmp_path / 'config.json'}: ") and line in said and "\n" not in said


@pytest.mark.parametrize("text", ["[", "[]", '"text"', "\ufeff{}", "[" * 100_000])
def test_a_file_that_is_no_mapping_is_one_line(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FolderError, match="config.json: (cannot be read|holds no mapping).*fetch it again") as caught:
        read_config(epath.Path(tmp_path))
    assert "\n" not in str(caught.value)

"""config.json of Hugging Face folders: the families that the decoder covers, read and written."""

import json
from typing import Any

from etils import epath

from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family

_GEMMA = {"tie_word_embeddings": True, "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
          "hidden_activation": "gelu_pytorch_tanh"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "Qwen2ForCausalLM": {},
    "Qwen3ForCausalLM": {"head_dim": 128},
    "Gemma2ForCausalLM": _GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "Gemma3ForCausalLM": _GEMMA | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 6},
}
"""What a config.json of each family may leave out, and means then."""
_TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2",
          "Qwen3ForCausalLM": "qwen3", "Gemma2ForCausalLM": "gemma2", "Gemma3ForCausalLM": "gemma3_text"}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_ATTENTION_BIASES = ("query", "key", "value")


class FolderError(ValueError):
    """A model's folder that cannot be read or written; one line that says which file and why."""


def read_config(folder: epath.Path) -> DecoderConfig:
    """The decoder that a folder's config.json describes. Raises FolderError for one that this decoder is not."""
    path = folder / "config.json"
    if not path.exists():
        raise FolderError(f"{folder}: no config.json; give the folder of a model")
    try:
        c = json.loads(path.read_text())
        return _decoder(c)
    except KeyError as missing:
        raise FolderError(f"{path}: lacks {missing}") from missing
    except (ValueError, TypeError, AttributeError) as error:
        raise FolderError(f"{path}: {error}") from error


def _decoder(c: dict[str, Any]) -> DecoderConfig:
    architecture = (c.get("architectures") or ["none"])[0]
    if architecture not in DEFAULTS:
        raise ValueError(f"the architecture is {architecture}; there are {', '.join(DEFAULTS)}")
    c = DEFAULTS[architecture] | c
    _refuse(c)
    derived = c["hidden_size"] // c["num_attention_heads"]
    head_width = c.get("head_dim") or derived
    gemma, qwen3 = architecture.startswith("Gemma"), architecture == "Qwen3ForCausalLM"
    sliding = _sliding(architecture, c)
    return DecoderConfig(
        vocab_size=c["vocab_size"], width=c["hidden_size"], layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"], kv_heads=c.get("num_key_value_heads") or c["num_attention_heads"],
        mlp_width=c["intermediate_size"], max_length=c["max_position_embeddings"], conv=1,
        head_width=0 if head_width == derived else head_width,
        family=Family(
            architecture=architecture, tied=bool(c.get("tie_word_embeddings")), scaled_embedding=gemma,
            activation=_activation(c), gated=True, norm_epsilon=c.get("rms_norm_eps", 1e-6), norm_offset=gemma,
            post_norms=gemma, query_key_norm=qwen3 or architecture == "Gemma3ForCausalLM",
            biases=_biases(architecture, c), query_scale=c["query_pre_attn_scalar"] ** -0.5 if gemma else 0.0,
            attention_softcap=float(c.get("attn_logit_softcapping") or 0),
            logit_softcap=float(c.get("final_logit_softcapping") or 0), **_rope(c),
            sliding=sliding, window=c["sliding_window"] if any(sliding) else 0,
        ),
    )


def _refuse(c: dict[str, Any]) -> None:
    """What would make another model of it without a word."""
    if c.get("quantization_config"):
        raise ValueError("the weights are quantized (quantization_config); take the model as it was before")
    if c.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention is true; the decoder is causal")
    if c.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("partial_rotary_factor is not 1; the decoder rotates whole heads")


def _activation(c: dict[str, Any]) -> str:
    name = c.get("hidden_activation") or c.get("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise ValueError(f"the activation is {name}; there are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _biases(architecture: str, c: dict[str, Any]) -> tuple[str, ...]:
    everywhere = (*_ATTENTION_BIASES, "output") if c.get("attention_bias") else ()
    attention = _ATTENTION_BIASES if architecture == "Qwen2ForCausalLM" else everywhere
    return (*attention, *(("gate", "up", "down") if c.get("mlp_bias") else ()))


def _rope(c: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions, as transformers 4 writes them (rope_theta, rope_scaling) and as 5 does (rope_parameters)."""
    given = c.get("rope_parameters") or {}
    far = given.get("full_attention", given)
    near = given.get("sliding_attention", {}).get("rope_theta", c.get("rope_local_base_freq") or 0.0)
    scaling = far or c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise ValueError(f"the rotary positions are scaled by {kind}; there are default, linear and llama3")
    bands = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings") if kind == "llama3" else ()
    return {
        "rope_base": float(far.get("rope_theta", c.get("rope_theta", 10_000.0))), "local_rope_base": float(near),
        "rope_factor": float(scaling["factor"]) if kind != "default" else 1.0,
        "rope_bands": tuple(float(scaling[name]) for name in bands),
    }


def _sliding(architecture: str, c: dict[str, Any]) -> tuple[bool, ...]:
    layers = range(c["num_hidden_layers"])
    if c.get("layer_types"):
        slides = tuple(kind == "sliding_attention" for kind in c["layer_types"])
    elif architecture.startswith("Gemma"):
        period = c.get("sliding_window_pattern", 2)
        slides = tuple((n + 1) % period > 0 for n in layers)
    elif architecture.startswith("Qwen"):
        slides = tuple(bool(c.get("use_sliding_window")) and n >= c.get("max_window_layers", 0) for n in layers)
    else:
        slides = (architecture == "MistralForCausalLM" and c.get("sliding_window") is not None,) * len(layers)
    if len(slides) != len(layers):
        raise ValueError(f"layer_types has {len(slides)} entries for {len(layers)} layers")
    return slides if any(slides) else ()


def config_json(config: DecoderConfig) -> dict[str, Any]:
    """config.json of an exported model. Raises FolderError for a decoder that is of no known family."""
    f = config.family
    if f.architecture not in DEFAULTS or config.conv > 1:
        raise FolderError(
            f"export: transformers has no such decoder (family {f.architecture or 'none'}, conv {config.conv}); start "
            "from an imported model, or from a recipe with one's shape"
        )
    activation = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == f.activation)
    named = {
        "architectures": [f.architecture], "model_type": _TYPES[f.architecture], "vocab_size": config.vocab_size,
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length, "head_dim": config.head_size, "rms_norm_eps": f.norm_epsilon,
        "tie_word_embeddings": f.tied, "hidden_act": activation, "rope_theta": f.rope_base,
        "attention_bias": "output" in f.biases, "mlp_bias": "gate" in f.biases,
        "sliding_window": f.window or None,
    }
    if f.sliding:
        kinds = [f"{'sliding' if slides else 'full'}_attention" for slides in f.sliding]
        named |= {"layer_types": kinds, "use_sliding_window": True}
    if f.rope_factor != 1.0:
        names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        named["rope_scaling"] = {
            "rope_type": "llama3" if f.rope_bands else "linear", "factor": f.rope_factor,
            **dict(zip(names, f.rope_bands, strict=False)),
        }
    if f.architecture.startswith("Gemma"):
        named |= {
            "hidden_activation": activation, "query_pre_attn_scalar": round(f.query_scale**-2),
            "attn_logit_softcapping": f.attention_softcap or None, "final_logit_softcapping": f.logit_softcap or None,
            "rope_local_base_freq": f.local_rope_base or None,
        }
    return named

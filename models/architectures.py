"""config.json of Hugging Face folders: the families that the decoder covers, read and written.

A family's keys, and what an absent or null one means, are those of transformers' configuration class; what that class
does not read is left alone.
"""

import json
import os
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import pydantic
from etils import epath

from ratchet.models.decoder import DecoderConfig, check_sizes
from ratchet.models.family import Activation, Family

_Size = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
_Layers = Annotated[int, pydantic.Field(ge=1, le=10_000)]
"""How many layers there may be: far more than any model has, and few enough to list."""
_Positive = Annotated[float, pydantic.Field(gt=0)]
_ACTIVATIONS: dict[str, Activation] = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_KINDS = ("full_attention", "sliding_attention")
"""What transformers calls a layer that does not slide, and one that does."""
_INPUTS = ("query", "key", "value")
_BANDS = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
_ROPE = {"default": (), "linear": ("factor",), "llama3": ("factor", *_BANDS)}
"""By the kind of scaling of the rotary positions, the numbers that it needs."""


class FolderError(ValueError):
    """A model's folder that cannot be read or written; one line that says which file and why."""


class _Model(pydantic.BaseModel, strict=True, allow_inf_nan=False):
    """What all families share. Sizes have no defaults: a file without them describes no model in particular."""

    architecture: ClassVar[str]
    traits: ClassVar[dict[str, Any]] = {"scaled_embedding": False}
    """The fields of the Family that no key changes."""
    model_type: str
    vocab_size: _Size
    hidden_size: _Size
    intermediate_size: _Size
    num_hidden_layers: _Layers
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    hidden_act: str = "silu"
    max_position_embeddings: _Size
    rms_norm_eps: _Positive = 1e-6
    tie_word_embeddings: bool = False
    rope_theta: _Positive = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float | None = None
    original_max_position_embeddings: _Positive | None = None
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    quantization_config: Any = None
    per_layer_config: Any = None
    is_causal: bool = True

    @property
    def activation(self) -> str:
        """The name of the MLP's activation."""
        return self.hidden_act

    @property
    def biases(self) -> tuple[str, ...]:
        """The matrices that add a bias, by our names, such as ("query", "key")."""
        return ()

    @property
    def window(self) -> int | None:
        """To how many tokens a query of a sliding layer attends, itself included; None where no layer slides."""
        return None

    @property
    def scores(self) -> dict[str, float]:
        """The fields of the Family that are about scores and logits."""
        return {}

    def slides(self, layer: int) -> bool:
        """Whether a layer slides, where `layer_types` does not say so."""
        return self.window is not None

    def decoder(self) -> DecoderConfig:
        """The decoder that the keys describe. Raises ValueError when our decoder cannot be it."""
        self.refuse()
        sliding, derived = self._sliding(), self.hidden_size // self.num_attention_heads
        made = DecoderConfig(
            vocab_size=self.vocab_size, width=self.hidden_size, layers=self.num_hidden_layers,
            heads=self.num_attention_heads, kv_heads=self.num_key_value_heads or self.num_attention_heads,
            mlp_width=self.intermediate_size, max_length=self.max_position_embeddings, conv=1,
            head_width=0 if self.head_dim in (None, derived) else self.head_dim,
            family=Family(
                architecture=self.architecture, tied=self.tie_word_embeddings, gated=True, **self.traits,
                activation=_known("the activation is", self.activation, _ACTIVATIONS),
                norm_epsilon=self.rms_norm_eps, biases=self.biases, **self.scores, **self.rotary(),
                sliding=sliding, window=self.window if any(sliding) else 0,
            ),
        )  # fmt: skip
        check_sizes(made)
        return made

    def refuse(self) -> None:
        """Raises ValueError for keys that our decoder does not heed, and which would silently make it another model."""
        if self.quantization_config:
            raise ValueError("the weights are quantized (quantization_config); take the model as it was before")
        if self.per_layer_config:
            raise ValueError("layers differ in size (per_layer_config); the decoder's are all alike")
        if not self.is_causal:
            raise ValueError("is_causal is false; the decoder is causal")

    def rotary(self) -> dict[str, Any]:
        """The fields of the Family that are about rotary positions, which transformers 4 writes as rope_theta and
        rope_scaling, and 5 as rope_parameters."""
        return self._stretched(self.rope_scaling or self.rope_parameters or {}, self.rope_theta)

    def _stretched(self, given: dict[str, Any], base: float) -> dict[str, Any]:
        """The same for one kind of layer, of what is `given` about its positions, whose base is `base` unless given."""
        if nested := [kind for kind in _KINDS if kind in given]:
            raise ValueError(f"the rotary positions of {nested[0]} layers are their own; in this family all are alike")
        kind = given.get("rope_type", given.get("type", "default"))
        needs = _known("the rotary positions are scaled by", kind, _ROPE)
        if given.get("partial_rotary_factor", self.partial_rotary_factor) not in (None, 1):
            raise ValueError("partial_rotary_factor is not 1; the decoder rotates whole heads")
        every = {"rope_theta": base, _BANDS[2]: self.max_position_embeddings} | given
        if self.original_max_position_embeddings is not None:
            every[_BANDS[2]] = self.original_max_position_embeddings
        numbers = _NUMBERS.validate_python({name: every[name] for name in ("rope_theta", *needs)})
        if kind == "llama3" and numbers[_BANDS[0]] >= numbers[_BANDS[1]]:
            raise ValueError(f"{_BANDS[0]} is {numbers[_BANDS[0]]}; it must be below {_BANDS[1]}")
        return {
            "rope_base": numbers["rope_theta"], "rope_factor": numbers.get("factor", 1.0),
            "rope_bands": tuple(numbers[name] for name in _BANDS if name in needs),
        }  # fmt: skip

    def _sliding(self) -> tuple[bool, ...]:
        """By layer, whether it slides; empty where none does."""
        kinds = self.layer_types
        if kinds is None:
            kinds = [_KINDS[self.slides(layer)] for layer in range(self.num_hidden_layers)]
        if len(kinds) != self.num_hidden_layers:
            raise ValueError(f"layer_types has {len(kinds)} entries for {self.num_hidden_layers} layers")
        sliding = tuple(kind == "sliding_attention" for kind in kinds)
        if any(sliding) and self.window is None:
            raise ValueError(f"{sum(sliding)} layers slide, but there is no sliding window")
        return sliding if any(sliding) else ()


class _Llama(_Model):
    architecture = "LlamaForCausalLM"
    model_type: Literal["llama"] = "llama"
    max_position_embeddings: _Size = 2048
    attention_bias: bool = False
    mlp_bias: bool = False

    @property
    def biases(self) -> tuple[str, ...]:
        return (*_everywhere(self.attention_bias), *(("gate", "up", "down") if self.mlp_bias else ()))


class _Mistral(_Model):
    architecture = "MistralForCausalLM"
    model_type: Literal["mistral"] = "mistral"
    num_key_value_heads: _Size = 8
    max_position_embeddings: _Size = 131_072
    sliding_window: _Size | None = 4096

    @property
    def window(self) -> int | None:
        return self.sliding_window


class _Qwen2(_Model):
    architecture = "Qwen2ForCausalLM"
    model_type: Literal["qwen2"] = "qwen2"
    num_key_value_heads: _Size | None = 32
    max_position_embeddings: _Size = 32_768
    use_sliding_window: bool = False
    sliding_window: _Size | None = 4096
    max_window_layers: int = 28

    @property
    def biases(self) -> tuple[str, ...]:
        return _INPUTS

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def slides(self, layer: int) -> bool:
        return self.window is not None and layer >= self.max_window_layers


class _Qwen3(_Qwen2):
    architecture = "Qwen3ForCausalLM"
    traits = _Qwen2.traits | {"query_key_norm": True}
    model_type: Literal["qwen3"] = "qwen3"
    head_dim: _Size = 128
    attention_bias: bool = False

    @property
    def biases(self) -> tuple[str, ...]:
        return _everywhere(self.attention_bias)


class _Gemma2(_Model):
    architecture = "Gemma2ForCausalLM"
    traits = {"scaled_embedding": True, "norm_offset": True, "post_norms": True}
    model_type: Literal["gemma2"] = "gemma2"
    num_key_value_heads: _Size = 4
    head_dim: _Size = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: _Size = 8192
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    query_pre_attn_scalar: _Size = 256
    sliding_window: _Size | None = 4096
    attn_logit_softcapping: _Positive | None = 50.0
    final_logit_softcapping: _Positive | None = 30.0
    use_bidirectional_attention: bool | None = None

    @property
    def activation(self) -> str:
        return self.hidden_activation

    @property
    def biases(self) -> tuple[str, ...]:
        return _everywhere(self.attention_bias)

    @property
    def window(self) -> int | None:
        return self.sliding_window

    @property
    def scores(self) -> dict[str, float]:
        return {
            "query_scale": self.query_pre_attn_scalar**-0.5, "attention_softcap": self.attn_logit_softcapping or 0.0,
            "logit_softcap": self.final_logit_softcapping or 0.0,
        }  # fmt: skip

    def slides(self, layer: int) -> bool:
        return layer % 2 == 0

    def refuse(self) -> None:
        super().refuse()
        if self.use_bidirectional_attention:
            raise ValueError("use_bidirectional_attention is true; the decoder is causal")


class _Gemma3(_Gemma2):
    architecture = "Gemma3ForCausalLM"
    traits = _Gemma2.traits | {"query_key_norm": True}
    model_type: Literal["gemma3_text"] = "gemma3_text"
    max_position_embeddings: _Size = 131_072
    rope_theta: _Positive = 1_000_000.0
    rope_local_base_freq: _Positive = 10_000.0
    sliding_window_pattern: _Size = 6
    attn_logit_softcapping: _Positive | None = None
    final_logit_softcapping: _Positive | None = None

    def slides(self, layer: int) -> bool:
        return (layer + 1) % self.sliding_window_pattern > 0

    def rotary(self) -> dict[str, Any]:
        given = self.rope_parameters or {}
        if strange := given.keys() - set(_KINDS):
            raise ValueError(f"rope_parameters has {min(strange)}; in this family there are {' and '.join(_KINDS)}")
        far, near = (given.get(kind) or {} for kind in _KINDS)
        local = self._stretched(near, self.rope_local_base_freq)
        if local["rope_factor"] != 1.0:
            raise ValueError("the rotary positions of sliding_attention layers are scaled; the decoder's are not")
        known = self._stretched(far | (self.rope_scaling or {}), self.rope_theta)
        return known | {"local_rope_base": local["rope_base"]}


_MODELS = {model.architecture: model for model in (_Llama, _Mistral, _Qwen2, _Qwen3, _Gemma2, _Gemma3)}
_NUMBERS = pydantic.TypeAdapter(dict[str, _Positive], config=pydantic.ConfigDict(strict=True, allow_inf_nan=False))


def present(path: epath.Path) -> bool:
    """Whether there is such a file. Raises FolderError for a link to nothing, as an interrupted download leaves it, and
    for what is no file, such as a pipe, which may say nothing for ever."""
    if not path.exists() and os.path.islink(path):
        raise FolderError(f"{path}: is a link to {os.readlink(path)}, which is not there; fetch it again")
    if os.path.exists(path) and not os.path.isfile(path):  # of what lies in a bucket neither is said
        raise FolderError(f"{path}: is no file; fetch it again")
    return path.exists()


def read_json(path: epath.Path) -> Any:
    """A file's JSON. Raises FolderError when it cannot be read, or holds no mapping."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{path}: cannot be read ({error}); fetch it again") from error
    if not isinstance(found, dict):
        raise FolderError(f"{path}: holds no mapping; fetch it again")
    return found


def read_config(folder: epath.Path) -> DecoderConfig:
    """The decoder that a folder's config.json describes. Raises FolderError when our decoder cannot be it."""
    path = folder / "config.json"
    if not present(path):
        raise FolderError(f"{folder}: no config.json; give the folder of a model")
    return decoder_of(read_json(path), str(path))


def decoder_of(found: dict[str, Any], where: str) -> DecoderConfig:
    """The decoder that the keys of a config.json describe. Raises FolderError, which begins with `where`, when our
    decoder cannot be it."""
    try:
        return _model(found).decoder()
    except KeyError as missing:
        raise FolderError(f"{where}: lacks {missing}") from missing
    except pydantic.ValidationError as error:
        raise FolderError(f"{where}: {_first_fault(error)}") from error
    except ValueError as error:
        raise FolderError(f"{where}: {error}") from error


def _model(found: dict[str, Any]) -> _Model:
    """The keys of a config.json, checked. Raises ValueError for an unknown architecture and a value of another type."""
    named = found.get("architectures") or ["none"]
    if not isinstance(named, list):
        raise ValueError(f"architectures is {named!r}; it must be a list of names, such as ['LlamaForCausalLM']")
    return _known("the architecture is", named[0], _MODELS).model_validate(found)


def _everywhere(attention_bias: bool) -> tuple[str, ...]:
    """The matrices of attention that add a bias: all of them or none."""
    return (*_INPUTS, "output") if attention_bias else ()


def _known(what: str, name: Any, known: Mapping[str, Any]) -> Any:
    """What a name stands for. Raises ValueError for one that is not known."""
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{what} {name}; there are {', '.join(known)}")
    return known[name]


def _first_fault(error: pydantic.ValidationError) -> str:
    """What is wrong with the first key that is."""
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"lacks {where!r}"
    return f"{where} is {reprlib.repr(fault['input'])}: {fault['msg']}"


def is_known(config: DecoderConfig) -> bool:
    """Whether transformers has such a decoder."""
    return config.family.architecture in _MODELS and config.conv <= 1


def config_json(config: DecoderConfig) -> dict[str, Any]:
    """config.json of an exported model. Raises FolderError for a decoder that is of no known family."""
    f = config.family
    if not is_known(config):
        raise FolderError(
            f"export: transformers has no such decoder (family {f.architecture or 'none'}, conv {config.conv}); start "
            "from an imported model, or from a recipe with one's shape"
        )
    activation = next(theirs for theirs, ours in _ACTIVATIONS.items() if ours == f.activation)
    named = {
        "architectures": [f.architecture], "model_type": _MODELS[f.architecture].model_fields["model_type"].default,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads, "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length, "head_dim": config.head_size, "rms_norm_eps": f.norm_epsilon,
        "tie_word_embeddings": f.tied, "hidden_act": activation, "rope_theta": f.rope_base,
        "attention_bias": "output" in f.biases, "mlp_bias": "gate" in f.biases,
        "sliding_window": f.window or None,
    }
    if f.architecture.startswith(("Qwen", "Gemma")) or len({*f.sliding}) > 1:
        sliding = f.sliding or (False,) * config.layers
        named |= {"layer_types": [_KINDS[slides] for slides in sliding], "use_sliding_window": any(sliding)}
    if f.rope_factor != 1.0:
        named["rope_scaling"] = {
            "rope_type": "llama3" if f.rope_bands else "linear", "factor": f.rope_factor,
            **dict(zip(_BANDS, f.rope_bands, strict=False)),
        }
    if f.architecture.startswith("Gemma"):
        named |= {
            "hidden_activation": activation, "query_pre_attn_scalar": round(f.query_scale**-2),
            "attn_logit_softcapping": f.attention_softcap or None, "final_logit_softcapping": f.logit_softcap or None,
            "rope_local_base_freq": f.local_rope_base or None,
        }
    return named

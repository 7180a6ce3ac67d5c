"""GGUF files, by the library of that name: a model's sizes, its weights in full precision, and its chat.

A file names its metadata by architecture, such as `llama.block_count`. Here they become the keys of a config.json, so
that what a family is stands in `models.architectures` alone; `models.gguf_vocabulary` makes its tokenizer.json.
"""

import datetime
import functools
import importlib
import os
import stat
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
from etils import epath
from flax import nnx

from ratchet.models import gguf_vocabulary, tensors
from ratchet.models.architectures import FolderError, decoder_of
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import DecoderConfig
from ratchet.models.extras import installer
from ratchet.models.family import Family, frequencies
from ratchet.models.settings import ChatSettings
from ratchet.models.tensors import Held, Names, Shardings

SUFFIX = ".gguf"
_ARCHITECTURES = {
    "llama": ("LlamaForCausalLM", "llama"), "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"), "gemma2": ("Gemma2ForCausalLM", "gemma2"),
    "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
}  # fmt: skip
"""By a file's architecture, what config.json calls it; Mistral is a llama there."""
_KEYS = {
    "context_length": "max_position_embeddings", "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}  # fmt: skip
_OF_GEMMA = {
    "attention.sliding_window": "sliding_window", "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping", "rope.freq_base_swa": "rope_local_base_freq",
    "attention.sliding_window_pattern": "sliding_window_pattern",
}  # fmt: skip
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}
"""Layers of the two models whose queries are scaled by width / heads and not by the width of a head, as llama.cpp tells
them: no key says it."""
_PARTS = {
    "attention_norm": "attn_norm", "query": "attn_q", "key": "attn_k", "value": "attn_v", "output": "attn_output",
    "query_norm": "attn_q_norm", "key_norm": "attn_k_norm", "attention_post_norm": "post_attention_norm",
    "mlp_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down", "mlp_post_norm": "post_ffw_norm",
}  # fmt: skip
_NAMES = Names("blk.{}.", _PARTS, {"embedding": "token_embd", "final_norm": "output_norm", "head": "output"})
_STRETCHED = "rope_freqs.weight"
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 8192}
"""How every Llama from 3.1 on stretches rotary positions; a file holds only by how much, for each frequency."""


class File(Held):
    """A GGUF file. Raises FolderError for one that cannot be read, is a part of a model, or is of no family that the
    decoder covers."""

    described = "metadata"

    def __init__(self, path: epath.Path):
        self.place = self.listed = str(path)
        self._metadata, self._tensors = read(path)
        if (parts := self._metadata.get("split.count", 1)) > 1:
            raise FolderError(f"{path}: is one of {parts} parts; join them by `llama-gguf-split --merge`")
        self._architecture = self._metadata.get("general.architecture")
        if self._architecture not in _ARCHITECTURES:
            known = ", ".join(_ARCHITECTURES)
            raise FolderError(f"{path}: the architecture is {self._architecture}; there are {known}")

    @functools.cached_property
    def config(self) -> DecoderConfig:
        """The decoder that the file describes. Raises FolderError when ours cannot be it."""
        return decoder_of(self.config_json, self.place)

    @functools.cached_property
    def config_json(self) -> dict[str, Any]:
        """What config.json says of the same model."""
        name, model_type = _ARCHITECTURES[self._architecture]
        is_gemma = self._architecture.startswith("gemma")
        keys = {**_KEYS, **(_OF_GEMMA if is_gemma else {})}
        found = {theirs: self._value(ours) for ours, theirs in keys.items() if self._value(ours) is not None}
        if "token_embd.weight" not in self._tensors:
            raise FolderError(f"{self.place}: lacks the tensor token_embd.weight; fetch it again")
        made = {
            "architectures": [name], "model_type": model_type, "rope_theta": 10_000.0,
            "vocab_size": int(self._tensors["token_embd.weight"].shape[1]),
            "tie_word_embeddings": "output.weight" not in self._tensors, **found,
            "attention_bias": "blk.0.attn_output.bias" in self._tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in self._tensors,
        }  # fmt: skip
        if self._value("expert_count"):
            raise FolderError(f"{self.place}: is a mixture of experts, which the decoder is not; take another model")
        return made | self._head(made, is_gemma) | self._scaling(made)

    def tokenizer(self, template: str = "", now: datetime.datetime | None = None) -> ChatTokenizer:
        """Its tokenizer and chat template; `template` replaces its own. Raises FolderError when one is missing or the
        tokenizer is of a kind that is not read."""
        source, named = gguf_vocabulary.read(self._metadata, self._architecture, self.place)
        default = template or self._metadata.get("tokenizer.chat_template")
        if not default:
            raise FolderError(f"{self.place}: no chat template (tokenizer.chat_template)")
        with_tools = template or self._metadata.get("tokenizer.chat_template.tool_use", default)
        of_file = ChatSettings(default, with_tools, named, {"tokenizer_class": "PreTrainedTokenizerFast"})
        made = ChatTokenizer(source, of_file, self.place, now or datetime.datetime.now())
        if made.vocab_size > (rows := self.config.vocab_size):
            raise FolderError(f"{self.place}: has {made.vocab_size} tokens, but the model's embedding has {rows} rows")
        return made

    def weights(self, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
        """The weights as float32, laid out, each dequantized as it is read. Raises FolderError when the file does not
        hold what its metadata says."""
        return tensors.load(self, _NAMES, self.config, shardings)

    @property
    def names(self) -> Set[str]:
        """What tensors there are, without the factors of rotary positions, which the config has taken in."""
        return self._tensors.keys() - {_STRETCHED}

    def part(self, name: str) -> "_Part":
        tensor, base = self._tensors[name], name.rsplit(".", 2)[-2]
        rows = None
        if self._architecture == "llama" and base in ("attn_q", "attn_k"):
            heads = self.config.heads if base == "attn_q" else self.config.kv_heads
            rows = np.arange(int(tensor.shape[-1])).reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)
        return _Part(tensor, rows, self.config.family.norm_offset and base.endswith("norm"), self.place)

    def _value(self, name: str) -> Any:
        return self._metadata.get(f"{self._architecture}.{name}")

    def _head(self, made: Mapping[str, Any], is_gemma: bool) -> dict[str, Any]:
        """The width of a head, which must be rotated whole, and what Gemma scales queries by."""
        heads, rotated = made.get("num_attention_heads"), self._value("rope.dimension_count")
        if not isinstance(heads, int) or not heads or "hidden_size" not in made:
            return {}  # which is refused as what a config.json lacks
        derived = made["hidden_size"] // heads
        width = made.get("head_dim", rotated or derived)
        if rotated not in (None, width) or self._value("attention.value_length") not in (None, width):
            raise FolderError(f"{self.place}: a head of {width} rotates {rotated} and gives "
                              f"{self._value('attention.value_length')}; in the decoder the three are one")
        if not is_gemma:
            return {"head_dim": width}
        scaled_by_width = made.get("num_hidden_layers") == _SCALED_BY_WIDTH[self._architecture]
        return {"head_dim": width, "query_pre_attn_scalar": derived if scaled_by_width else width}

    def _scaling(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """How rotary positions are stretched. Raises FolderError for factors by frequency that are not Llama 3.1's."""
        kind, factor = self._value("rope.scaling.type"), self._value("rope.scaling.factor")
        factor = factor or self._value("rope.scale_linear")
        if _STRETCHED in self._tensors:
            factors = _Part(self._tensors[_STRETCHED], None, False, self.place)[:]
            scaling = _LLAMA3 | {"factor": float(factors.max())}
            bands = tuple(_LLAMA3[name] for name in _LLAMA3 if name != "rope_type")
            f = Family(rope_base=made["rope_theta"], rope_factor=scaling["factor"], rope_bands=bands)
            plain_E = np.asarray(frequencies(Family(rope_base=f.rope_base), 2 * len(factors)))
            if not np.allclose(plain_E / factors, frequencies(f, 2 * len(factors)), rtol=1e-4, atol=0):
                raise FolderError(f"{self.place}: {_STRETCHED} stretches rotary positions otherwise than Llama 3.1")
            return {"rope_scaling": scaling}
        if kind == "none" or (kind in (None, "linear") and factor in (None, 0.0, 1.0)):
            return {}
        return {"rope_scaling": {"rope_type": kind or "linear", "factor": factor}}


class _Part:
    """A tensor of a file. Only the rows that an index names are dequantized. `rows` is the order in which those of the
    file come here; `offset` says that the file has 1 more in every number."""

    def __init__(self, tensor: Any, rows: np.ndarray | None, offset: bool, where: str):
        self._tensor, self._rows, self._offset, self._where = tensor, rows, offset, where

    def get_shape(self) -> list[int]:
        return [int(size) for size in reversed(self._tensor.shape)]

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        stored, kind = self._tensor.data, self._tensor.tensor_type
        rows, is_vector = first if self._rows is None else self._rows[first], stored.ndim == 1
        try:
            read = _library(self._where).dequantize(stored if is_vector else stored[rows], kind)
        except NotImplementedError as error:
            raise FolderError(f"{self._where}: {self._tensor.name} is in {kind.name}, which is not read") from error
        return np.float32(read[rows] if is_vector else read)[(slice(None), *rest)] - np.float32(self._offset)


def _library(where: str) -> Any:
    """The library gguf. Raises FolderError when it is not installed."""
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise FolderError(f"{where}: the library gguf reads GGUF files; `{installer()} gguf`") from error


def read(path: epath.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata, and the tensors by name, mapped into memory. Raises FolderError for what is no whole GGUF file."""
    library = _library(str(path))
    try:
        begun = b""
        if stat.S_ISREG(os.stat(path).st_mode):  # a pipe may say nothing for ever
            with path.open("rb") as opened:
                begun = opened.read(4)
    except OSError as error:
        raise FolderError(f"{path}: cannot be read ({error.strerror}); give a GGUF file") from error
    if begun != b"GGUF":
        raise FolderError(f"{path}: is no GGUF file; give one, or the folder of a model")
    try:
        reader = library.GGUFReader(str(path))
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:  # it checks no length that it reads
        raise FolderError(f"{path}: cannot be read to its end ({error}); fetch it again") from error
    return metadata, {tensor.name: tensor for tensor in reader.tensors}

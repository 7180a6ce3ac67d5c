"""How transformers' classes of tokenizers cut text into words, whatever tokenizer.json says of it.

They make their tokenizer anew, of the file's pieces and of settings in tokenizer_config.json, `add_prefix_space` and
`legacy`. Published files of byte-level classes differ from what these make in how they cut digits, which merges as few
of them, so such a file is believed where no space is asked for.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_CUT = {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False}
_BYTE_LEVEL = {
    "GPT2": {"normalizer": None, "pre_tokenizer": _BYTES},
    "Qwen2": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_CUT, _BYTES | {"use_regex": False}]},
    },
}
"""By class, what it makes where a space is asked for: before a text, or before each of its pieces."""
_SPELLED = [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
]
_FIRST_TAKEN = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_BYTES_FALL_BACK = {"fuse_unk": True, "byte_fallback": True, "ignore_merges": False}


class Reading(NamedTuple):
    """The class that transformers reads a tokenizer with, as "GPT2" of GPT2TokenizerFast, and what
    tokenizer_config.json asks of it: a `space` before words, None where it does not say, and before a text alone unless
    it is `legacy`, which puts one after each special token as well."""

    of_class: str = ""
    space: bool | None = None
    legacy: bool = False


AS_IT_IS = Reading()
"""As the file says."""


def as_read(whole: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    """A parsed tokenizer.json as a class reads it."""
    if reading.of_class in _BYTE_LEVEL:
        if reading.space:
            return {**whole, **_BYTE_LEVEL[reading.of_class], "decoder": _BYTES}
        return {**whole, "pre_tokenizer": _without(whole.get("pre_tokenizer"))}
    if reading.of_class == "Llama" and _of_type(whole.get("model"), "BPE") and '"ByteLevel"' not in json.dumps(whole):
        return {**whole, **_llama(reading), "model": {**whole["model"], **_BYTES_FALL_BACK, "unk_token": None}}
    return dict(whole)


def _llama(reading: Reading) -> dict[str, Any]:
    """How Llama's class marks spaces and takes the marks back."""
    puts_one = reading.space in (None, True)
    scheme = ("always" if reading.legacy else "first") if puts_one else "never"
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": [*_SPELLED, *([_FIRST_TAKEN] if puts_one else [])]},
    }


def _of_type(part: Any, name: str) -> bool:
    return isinstance(part, Mapping) and part.get("type") == name


def _without(cutting: Any) -> Any:
    """A pre-tokenizer that puts no space."""
    match cutting:
        case {"type": "ByteLevel"}:
            return {**cutting, "add_prefix_space": False}
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            return {**cutting, "pretokenizers": [_without(part) for part in parts]}
    return cutting

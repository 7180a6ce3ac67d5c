"""The space that transformers' classes of byte-level tokenizers put before words, whatever tokenizer.json says of it.

They make their tokenizer anew, with the `add_prefix_space` of tokenizer_config.json. Published files differ from what
they make in how they cut digits, which merges as few of them, so a file is believed where no space is asked for.
"""

from collections.abc import Mapping
from typing import Any

_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_CUT = {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False}
_MADE = {
    "GPT2": {"normalizer": None, "pre_tokenizer": _BYTES},
    "Qwen2": {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_CUT, _BYTES | {"use_regex": False}]},
    },
}
"""By class, what it makes where a space is asked for: before a text, or before each of its pieces."""


def spaced(whole: Mapping[str, Any], of_class: str, asked: bool) -> dict[str, Any]:
    """A parsed tokenizer.json as a class reads it; `asked` tells whether a space is to stand before words."""
    if of_class not in _MADE:
        return dict(whole)
    if asked:
        return {**whole, **_MADE[of_class], "decoder": _BYTES}
    return {**whole, "pre_tokenizer": _without(whole.get("pre_tokenizer"))}


def _without(cutting: Any) -> Any:
    """A pre-tokenizer that puts no space."""
    match cutting:
        case {"type": "ByteLevel"}:
            return {**cutting, "add_prefix_space": False}
        case {"type": "Sequence", "pretokenizers": list(parts)}:
            return {**cutting, "pretokenizers": [_without(part) for part in parts]}
    return cutting

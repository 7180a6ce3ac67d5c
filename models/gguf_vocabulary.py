"""The tokenizer of a GGUF file, as the tokenizer.json that says the same.

A file lists tokens, merges and kinds of tokens, and names how text is split before merging. Of the kinds in use, those
that the families of `models.architectures` are published with are read; another is refused, since by a wrong split a
model reads other tokens than it was trained on.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ratchet.models.architectures import FolderError

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
"""Kinds of tokens, by llama.cpp's numbers."""
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = f"{_WORDS}{{1,3}}{_REST}", f"{_WORDS}{_REST}"
_SPLITS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe"), _LLAMA3), "tekken": _TEKKEN,
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2), "gpt-2": "", "smollm": r"\p{N}",
}  # fmt: skip
"""By the kind that a file names: what text is split by. GPT-2's own split is the library's; SmolLM's takes single
digits out before it."""
_BEGUN = ("llama-bpe", "llama3", "llama-v3", "tekken")
"""Kinds of tokenizer that put the token for it before every text, unless the file says otherwise."""
_NAMED = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}  # fmt: skip
_SPACE = "\u2581"


def read(metadata: Mapping[str, Any], architecture: str, where: str) -> tuple[str, dict[str, str]]:
    """(tokenizer.json, special tokens by the names that chat templates call them) of a file's metadata.

    Raises FolderError, which begins with `where`, when there is no tokenizer, or one of a kind that is not read.
    """
    of_file = {name.removeprefix("tokenizer.ggml."): value for name, value in metadata.items()}
    kind, tokens = of_file.get("model"), of_file.get("tokens")
    if not kind or not tokens:
        raise FolderError(f"{where}: has no tokenizer (tokenizer.ggml.tokens); give a file that has")
    if kind not in _MODELS:
        raise FolderError(f"{where}: its tokenizer is of the kind {kind}; there are {', '.join(_MODELS)}")
    kinds = of_file.get("token_type") or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise FolderError(f"{where}: {len(kinds)} kinds of tokens for {len(tokens)}; fetch it again")
    given = {name: of_file[key] for name, key in _NAMED.items() if key in of_file}
    ids = {name: i for name, i in given.items() if i < len(tokens)}
    named = {name: tokens[i] for name, i in ids.items()}
    special = {i for i, kind_of in enumerate(kinds) if kind_of == _CONTROL}
    special |= {i for name, i in ids.items() if name != "unk_token"}
    is_piece = lambda token: kind == "llama" and not token.strip(" ")  # a run of spaces is one like any other there
    defined = {i for i, kind_of in enumerate(kinds) if kind_of == _USER_DEFINED and not is_piece(tokens[i])}
    added = sorted(special | defined)
    used = {i: token for i, token in enumerate(tokens) if kinds[i] != _UNUSED or i in special}
    made = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(i, tokens[i], i in special) for i in added],
        **_MODELS[kind](of_file, used, set(added), architecture, where),
    }  # fmt: skip
    if of_file.get("add_bos_token", kind == "llama" or of_file.get("pre") in _BEGUN) and "bos_token" in named:
        made["post_processor"] = _beginning(named["bos_token"], ids["bos_token"])
    return json.dumps(made, ensure_ascii=False), named


def _by_bytes(
    of_file: Mapping[str, Any], used: Mapping[int, str], added: set[int], architecture: str, where: str
) -> dict[str, Any]:
    """Merges of bytes, each spelled as a letter, as in GPT-2 and most models since."""
    split = of_file.get("pre")
    if split not in _SPLITS:
        raise FolderError(f"{where}: its tokenizer splits text as {split} does; there are {', '.join(_SPLITS)}")
    if "merges" not in of_file:
        raise FolderError(f"{where}: has no merges (tokenizer.ggml.merges); give a file that has")
    pattern = _SPLITS[split]
    by_pattern = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    bytes_as_letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                        "use_regex": split in ("gpt-2", "smollm")}  # fmt: skip
    splits = [*([by_pattern] if pattern else []), bytes_as_letters]
    vocabulary = {token: i for i, token in used.items()}
    merges = [merge.split(" ", 1) for merge in of_file["merges"]]
    composed = {"type": "NFC"} if split == "qwen2" else None  # which files do not say
    return {
        "normalizer": composed, "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits}, "post_processor": None,
        "decoder": bytes_as_letters | {"use_regex": True},
        "model": _merging(vocabulary, merges, ignore_merges=split in _BEGUN),
    }  # fmt: skip


def _by_pieces(
    of_file: Mapping[str, Any], used: Mapping[int, str], added: set[int], architecture: str, where: str
) -> dict[str, Any]:
    """SentencePiece: two pieces are merged when the whole is one, the best-scored first; what there is no piece of is
    spelled in bytes. A file lists no merges, and Gemma's scores do not follow the order of its own."""
    vocabulary = {_SPACE * len(token) if not token.strip(" ") else token: i for i, token in used.items()}
    is_gemma, scores = architecture.startswith("gemma"), of_file.get("scores")
    best = (lambda m: (-m[0], -len(m[1]))) if is_gemma or not scores else (lambda m: (scores[m[0]], len(m[1])))
    merges = [halves for _, *halves in sorted(_merges(vocabulary, added), key=best, reverse=True)]
    begins = of_file.get("add_space_prefix", not is_gemma)
    spaces = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": "first" if begins else "never",
              "split": False}  # fmt: skip
    decoders = [{"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if begins else [])]
    unknown = used.get(of_file.get("unknown_token_id", 0))
    return {
        "normalizer": None, "pre_tokenizer": spaces, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _merging(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }  # fmt: skip


_MODELS = {"gpt2": _by_bytes, "llama": _by_pieces}
"""By the kind of tokenizer that a file names, what makes the rest of its tokenizer.json."""


def _merges(vocabulary: Mapping[str, int], added: set[int]) -> Iterator[tuple[int, str, str]]:
    """Every way to make a piece of two, with the piece's id. What is `added` is made of none: text that spells it is
    text."""
    for piece, number in vocabulary.items():
        for cut in range(1, len(piece) if number not in added else 0):
            if piece[:cut] in vocabulary and piece[cut:] in vocabulary:
                yield number, piece[:cut], piece[cut:]


def _merging(vocabulary: dict[str, int], merges: Sequence[Sequence[str]], **more: Any) -> dict[str, Any]:
    """The model of a tokenizer.json that merges pairs, in the order of `merges`."""
    usual = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    return {**usual, **more, "vocab": vocabulary, "merges": merges}


def _added(number: int, content: str, special: bool) -> dict[str, Any]:
    """An entry of the added tokens of a tokenizer.json."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **plain, "special": special}


def _beginning(token: str, number: int) -> dict[str, Any]:
    """What puts a token at the beginning of every text."""
    one, first = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "type": "TemplateProcessing", "single": [one, first], "pair": [one, first, one, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }  # fmt: skip

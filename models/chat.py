"""Tokenizers of Hugging Face folders: tokenizer.json, and the chat template with its mask of what an assistant says.

Special tokens come from the template alone. Text that spells one, in a message or a document, stays text: it is hidden
from the template's output while that is searched for special tokens, and encoded as ordinary characters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from etils import epath
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from ratchet.models.architectures import FolderError

_OPEN, _CLOSE = "\ue000", "\ue001"
_SHIFT = 0xF0000
_PRIVATE = re.compile("[\ue000\ue001\U000f0000-\U000fffff]")
_PROBE = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})


class Chat(NamedTuple):
    """Tokens [N] of messages and, by token, whether the assistant said it."""

    tokens: np.ndarray
    said: np.ndarray


class ChatTokenizer:
    """Text and messages to token ids, and back, as a folder's tokenizer.json and chat template have it."""

    def __init__(self, tokenizer: FastTokenizer, template: str, named: Mapping[str, str], where: str):
        self._tokenizer, self._where = tokenizer, where
        self._tokenizer.encode_special_tokens = True  # as ordinary text
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token.content: i for i, token in added.items() if token.special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._find = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._named = dict(named)
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(template)
        except jinja2.TemplateError as error:
            raise FolderError(f"{where}: the chat template cannot be read ({error})") from error

    @classmethod
    def load(cls, folder: epath.Path, vocab_size: int, template: str | None = None) -> "ChatTokenizer":
        """Reads a folder; `template` replaces its own. `vocab_size` is the number of rows of the embedding.

        Raises FolderError when something is missing, when the tokenizer has ids that the model has not, and when the
        template marks nothing as said by the assistant, since nothing would be trained on.
        """
        path, tokenizer = folder / "tokenizer.json", read_tokenizer(folder)
        largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
        if largest >= vocab_size:
            raise FolderError(f"{path}: has the id {largest}, but the model's embedding has {vocab_size} rows")
        settings, own = _settings(folder)
        if not (template or own):
            raise FolderError(f"{folder}: no chat template (chat_template.jinja, or in tokenizer_config.json)")
        made = cls(tokenizer, template or own, settings, str(folder))
        if not made.chat(_PROBE).said.any():
            raise FolderError(
                f"{folder}: the chat template marks nothing as said by the assistant; put what it says between "
                "{% generation %} and {% endgeneration %}"
            )
        return made

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of text; a special token's name is text like any other."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, Any]], *, tools: Sequence[Mapping] = (), open_turn=False) -> Chat:
        """Messages by the template, as transformers' `apply_chat_template` gives them; `open_turn` begins an answer.

        Raises FolderError when the template refuses them.
        """
        try:
            text = self._template.render(
                messages=self._hide(messages), tools=self._hide(tools) or None, add_generation_prompt=open_turn,
                **self._named,
            )  # fmt: skip
        except jinja2.TemplateError as error:
            raise FolderError(f"{self._where}: the chat template refuses the messages: {error}") from error
        plain, spans = _unmarked(text)
        found = [(i, start, end) for encoding, at in self._pieces(plain) for i, start, end in _placed(encoding, at)]
        said = [any(start < last and end > first for first, last in spans) for _, start, end in found]
        return Chat(np.array([i for i, *_ in found], np.int32), np.array(said, bool))

    def _hide(self, value: Any) -> Any:
        """The same with the names of special tokens, wherever they stand, in letters that no template looks for."""
        if isinstance(value, str):
            return self._find.sub(lambda m: _shifted(m.group(0), _SHIFT), _PRIVATE.sub("\ufffd", value))
        if isinstance(value, Mapping):
            return {name: self._hide(part) for name, part in value.items()}
        return [self._hide(part) for part in value] if isinstance(value, Sequence) else value

    def _pieces(self, text: str) -> list[tuple[Encoding | int, int]]:
        """(ids with their places, where the piece begins): the whole at once where nothing is hidden in it, else every
        special token by itself, as an id, and what lies between as ordinary text."""
        if not _PRIVATE.search(text):
            self._tokenizer.encode_special_tokens = False
            whole = self._tokenizer.encode(text, add_special_tokens=False)
            self._tokenizer.encode_special_tokens = True
            return [(whole, 0)]
        pieces, at = [], 0
        for match in [*self._find.finditer(text), None]:
            between = _PRIVATE.sub(lambda m: _shifted(m.group(0), -_SHIFT), text[at : match.start() if match else None])
            pieces.append((self._tokenizer.encode(between, add_special_tokens=False), at))
            if match:
                pieces.append((self._special[match.group(0)], match.start()))
                at = match.end()
        return pieces


def read_tokenizer(folder: epath.Path) -> FastTokenizer:
    """A folder's tokenizer.json. Raises FolderError when there is none to be read."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FolderError(f"{folder}: no tokenizer.json; write it again with transformers' save_pretrained")
    try:
        return FastTokenizer.from_str(path.read_text())
    except Exception as error:  # tokenizers raises nothing narrower
        raise FolderError(f"{path}: cannot be read ({error})") from error


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks what the assistant says."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    @staticmethod
    def _marked(caller) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _settings(folder: epath.Path) -> tuple[dict[str, str], str]:
    """Special tokens by name, and the chat template, "" where there is none."""
    path, alone = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        settings = json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise FolderError(f"{path}: cannot be read ({error}); fetch it again") from error
    text = lambda value: value.get("content") if isinstance(value, dict) else value
    named = {n: text(v) for n, v in settings.items() if n.endswith("_token") and isinstance(text(v), str)}
    template = alone.read_text() if alone.exists() else settings.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        template = next((one["template"] for one in template if one["name"] == "default"), "")
    return named, template


def _unmarked(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and the spans that they enclosed."""
    plain, spans, start = "", [], 0
    for part in re.split(f"([{_OPEN}{_CLOSE}])", text):
        if part == _OPEN:
            start = len(plain)
        elif part == _CLOSE:
            spans.append((start, len(plain)))
        else:
            plain += part
    return plain, spans


def _placed(encoding: Encoding | int, at: int) -> list[tuple[int, int, int]]:
    """(id, start, end) of tokens in the text; a special token is taken to be one letter long."""
    if isinstance(encoding, int):
        return [(encoding, at, at + 1)]
    return [(i, at + start, at + end) for i, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)]


def _shifted(text: str, by: int) -> str:
    return "".join(chr(ord(letter) + by) for letter in text)

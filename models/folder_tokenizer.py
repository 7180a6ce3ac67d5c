"""A Hugging Face folder's tokenizer.json with control symbols added, for runs that start from its weights."""

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from etils import epath
from llguidance import LLTokenizer
from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

from ratchet.models.chat import read_tokenizer
from ratchet.models.tokenizer import CONTROLS, Tokenizer

CHAT_TEMPLATE = (
    "{%- for m in messages %}{%- if m['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}LEAD{{ m['content'] }}<|end|>{% endgeneration %}"
    "{%- else %}<|{{ m['role'] }}|>LEAD{{ m['content'] }}<|end|>{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}<|assistant|>{%- endif %}"
)
"""What `Tokenizer.chat` does, for other programs."""


class FolderTokenizer(Tokenizer):
    """Like `Tokenizer`; pieces of text are joined by a space, whatever the tokenizer does at their beginnings."""

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]
        self._tokenizer = FastTokenizer.from_str(model.decode())
        self._tokenizer.encode_special_tokens = True  # as ordinary text
        self.control = {name: self._tokenizer.token_to_id(f"<|{name}|>") for name in CONTROLS}
        missing = [name for name, token in self.control.items() if token is None]
        if missing:
            raise ValueError(f"tokenizer: lacks the control symbols {missing}; start from a folder with --base")
        joined = self._tokenizer.decode([*self._ids("a"), *self._ids("b")]).strip()
        self.lead = "" if joined == "a b" else " "

    @classmethod
    def of_folder(cls, folder: epath.Path) -> "FolderTokenizer":
        """The folder's own with what control symbols it lacks. Raises FolderError when there is none to be read."""
        own = read_tokenizer(folder)
        own.add_special_tokens([AddedToken(f"<|{name}|>", special=True, normalized=False) for name in CONTROLS])
        return cls(own.to_str().encode())

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._ids(self.lead + text) if text else []

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        said = [int(i) for i in ids]
        return self._tokenizer.decode([i for i in said if i < self.vocab_size], skip_special_tokens=True).strip(" ")

    def spelled(self) -> LLTokenizer:
        return LLTokenizer(self.model.decode(), eos_token=self.control["end"])

    def piece(self, token: int) -> str:
        known = token < self.vocab_size
        return self._tokenizer.decode([int(token)], skip_special_tokens=False) if known else "<unused>"

    def settings(self) -> dict[str, Any]:
        """Its tokenizer_config.json."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE.replace("LEAD", "{{ ' ' }}" if self.lead else ""),
        }  # fmt: skip


def write(tokenizer: FolderTokenizer, folder: epath.Path) -> None:
    """As transformers reads it."""
    (folder / "tokenizer.json").write_bytes(tokenizer.model)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer.settings(), indent=1))

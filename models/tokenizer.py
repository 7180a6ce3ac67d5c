"""SentencePiece with control symbols, for models from scratch: messages in, ids out. And how a run's tokenizer is read.

Control symbols stand for roles, documents, tool calls, questions and verdicts. They are inserted by id alone: text that
spells one, in a document or a question, stays text.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sentencepiece
from etils import epath
from llguidance import LLTokenizer

from ratchet.models.chat import ChatTokenizer
from ratchet.models.grammar import Calling, Pieces

CONTROLS = ("system", "user", "assistant", "tool", "document", "call", "ask", "yes", "no", "end")
PAD = 0
FILE = "model.spm"
"""What a run's tokenizer lies in."""
LONGEST = 1 << 22
"""Letters of a text that are learned from at a time: a longer text is cut there, in the middle of a word if need be."""
UNKNOWN = "▅"
"""SentencePiece's sign of what has no piece."""


class Tokenizer:
    """Messages and text to token ids, and back.

    `hash` identifies the model; `end` is the id that ends an assistant's turn; `verdicts` are the ids of yes and no;
    `left_out` are those that no text shows. `described` is empty: transformers has no class for it.
    Raises ValueError for a SentencePiece model without the control symbols.
    """

    can_call = True
    asks_in_a_row = True
    """Whether several questions with their verdicts may follow each other in one context."""

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._control = {name: self._pieces.piece_to_id(f"<|{name}|>") for name in CONTROLS}
        missing = [name for name, piece in self._control.items() if piece == self._pieces.unk_id()]
        if missing:
            raise ValueError(f"tokenizer: lacks the control symbols {missing}; train it with `Tokenizer.train`")
        self.end = self._control["end"]
        self.left_out, self.described = frozenset({PAD, *self._control.values()}), {}
        self.verdicts = (self._control["yes"], self._control["no"])
        self.call_end = (self.end,)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Trains on all of each of `texts`; small corpora may give fewer pieces than `vocab_size`. Deterministic.

        Text is kept letter for letter: nothing is normalized, and every digit is a piece of its own. Raises ValueError
        when `vocab_size` is too small for the texts.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(part for text in texts for part in _sentences(text)),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                control_symbols=[f"<|{name}|>" for name in CONTROLS],
                pad_id=PAD,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                split_digits=True,
                max_sentence_length=4 * LONGEST,  # in bytes; longer texts would be left out
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"tokenizer: {vocab_size} pieces cannot hold the bytes, controls and letters of the text "
                f"({str(error).splitlines()[-1].strip()}); raise --model.vocab-size"
            ) from error
        return cls(model.getvalue())

    def save(self, folder: epath.Path) -> None:
        """Writes the file that `load` reads; it appears whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{FILE}.part").write_bytes(self.model)
        (folder / f"{FILE}.part").rename(folder / FILE)

    @property
    def special_ids(self) -> dict[str, Any]:
        """The id that transformers' `generate` ends with, by its name."""
        return {"eos_token_id": [self.end]}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return self._pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of text. A space before it is understood: " a" and "a" are the same ids. Raises ValueError for half a
        letter, such as a terminal makes of bytes that are no UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(text[error.start])
            raise ValueError(f"tokenizer: no piece spells half a letter ({half}); give whole letters") from error
        return self._pieces.encode(text.removeprefix(" "))

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`; control symbols, `special` or not, have none. Rows of the embedding that no piece uses are
        left out."""
        size = self.vocab_size
        return self._pieces.decode([int(i) for i in ids if int(i) not in self.left_out and i < size])

    def whole(self, text: str, begins: bool) -> list[int]:
        """Ids of text outside any chat. Nothing is put before it, whether it `begins` or not, and no name in it is a
        control symbol's."""
        return self.encode(text)

    def spell(self, token: int) -> bytes:
        """What an id spells; that of a control symbol is its name."""
        byte = self._pieces.is_byte(token)
        return bytes([int(self._pieces.id_to_piece(token)[3:-1], 16)]) if byte else self.piece(token).encode()

    def piece(self, token: int) -> str:
        """How an id is spelled, for people."""
        return self._pieces.id_to_piece(int(token)).replace("▁", " ") if token < self.vocab_size else "<unused>"

    def spelled(self) -> LLTokenizer:
        """What each id spells, for grammars, which `end` ends."""
        pieces, ids = self._pieces, range(self.vocab_size)
        special = [i for i in ids if pieces.is_control(i) or pieces.is_unknown(i)]
        return Pieces(list(map(self.spell, ids)), special, self.end).spelled()

    def render(
        self,
        messages: Sequence[Mapping],
        *,
        passages: Sequence[str] = (),
        tools: Sequence[Mapping] = (),
    ) -> list[int]:
        """Passages, messages and an open assistant's turn. Tools are not described: a model from scratch learns from
        demonstrations what it may call."""
        turns = [token for message in messages for token in self._turn(message)]
        return [*self._sources(passages), *turns, self._control["assistant"]]

    def ask(
        self,
        question: str,
        *,
        passages: Sequence[str] = (),
        messages: Sequence[Mapping] = (),
        words: Sequence[str] = (),
    ) -> tuple[list[int], list[int]]:
        """(context, question) in ids: a question about passages and messages, of which the next token is one of
        `verdicts`. Other `words` to answer by are not told: a model from scratch learns them from demonstrations.

        The context is the same for every question.
        """
        told = [token for message in messages for token in self._turn(message)]
        return [*self._sources(passages), *told], [self._control["ask"], *self.encode(question)]

    def spoken(self, word: str) -> tuple[int, ...]:
        """The ids of a word that answers a question."""
        return tuple(self.encode(word))

    def calls(self, tool_name: str) -> tuple[int, ...]:
        """The ids that begin a call, up to the JSON of its arguments: one symbol, the same for every tool."""
        return (self._control["call"],)

    def calling(self, names: Sequence[str]) -> Calling:
        """How these tools are called: their arguments alone tell which is meant."""
        return Calling((self._control["call"],), dict.fromkeys(names, ()))

    def call(self, tool_name: str, arguments: str) -> list[int]:
        """A whole call, with its arguments in JSON, and the end of the turn."""
        return [*self.calls(tool_name), *self.encode(arguments), *self.call_end]

    def answered(self, text: str) -> list[int]:
        """What goes on after a call: the tool's answer, and an open assistant's turn."""
        return [*self._turn({"role": "tool", "content": text}), self._control["assistant"]]

    def document(self, text: str) -> list[int]:
        """Ids of a document that has begun with `text` and goes on."""
        return [self._control["document"], *self.encode(text)]

    def prose(self, beginning: str) -> list[int]:
        """Ids of plain text outside any chat that has begun so and goes on."""
        return [self._control["system"], *self.encode(beginning)]

    def _turn(self, message: Mapping[str, Any]) -> list[int]:
        """A closed message: its role's symbol, its text, its calls, and the end."""
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        called = [token for c in calls for token in (*self.calls(c["name"]), *self.encode(in_json(c.get("arguments"))))]
        return [self._control[message["role"]], *self.encode(message.get("content") or ""), *called, self.end]

    def _sources(self, passages: Sequence[str]) -> list[int]:
        return [token for text in passages for token in self.document(text)]


def in_json(arguments: str | Mapping[str, Any] | None) -> str:
    """Arguments of a call as a model writes them, which some clients send as an object, and some without any not at
    all."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def _sentences(text: str) -> Iterator[str]:
    """The parts of a text that are learned from. SentencePiece passes over all of one that holds its own sign of what
    has no piece."""
    for part in text.split(UNKNOWN):
        yield from (part[i : i + LONGEST] for i in range(0, len(part), LONGEST))


def load(directory: epath.Path) -> Tokenizer | ChatTokenizer:
    """Reads what `save` wrote, of either kind. Raises FileNotFoundError when it holds neither."""
    if (directory / FILE).exists():
        return Tokenizer((directory / FILE).read_bytes())
    if (directory / "tokenizer.json").exists():
        return ChatTokenizer.load(directory)
    raise FileNotFoundError(f"tokenizer: {directory} has no {FILE} and no tokenizer.json; give the directory of a run")

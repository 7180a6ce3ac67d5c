"""SentencePiece with control symbols for roles, tools and verdicts, and the chat format made of them.

Control symbols are inserted by id alone: text that spells one, in a document or a question, stays text.
"""

import hashlib
import io
from collections.abc import Iterable

import sentencepiece
from etils import epath
from llguidance import LLTokenizer

from ratchet.models.grammar import Pieces

CONTROLS = ("system", "user", "assistant", "tool", "document", "call", "ask", "yes", "no", "end")
PAD = 0


class Tokenizer:
    """Text to token ids and back. `control[name]` is the id of a control symbol; `hash` identifies the model."""

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.control = {name: self._pieces.piece_to_id(f"<|{name}|>") for name in CONTROLS}
        missing = [name for name, piece in self.control.items() if piece == self._pieces.unk_id()]
        if missing:
            raise ValueError(f"tokenizer: lacks the control symbols {missing}; train it with `Tokenizer.train`")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Trains on `texts`; small corpora may give fewer pieces than `vocab_size`. Deterministic.

        Raises ValueError when `vocab_size` is too small for them.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
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
                normalization_rule_name="nmt_nfkc_cf",
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(
                f"tokenizer: {vocab_size} pieces cannot hold the bytes, controls and letters of the text "
                f"({str(error).splitlines()[-1].strip()}); raise --model.vocab-size"
            ) from error
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: epath.Path) -> "Tokenizer":
        if not path.exists():
            raise FileNotFoundError(f"tokenizer: {path} is missing; give the directory of a run")
        return cls(path.read_bytes())

    @property
    def vocab_size(self) -> int:
        return self._pieces.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._pieces.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; control symbols, and embedding rows that no piece uses, are left out."""
        left_out = {PAD, *self.control.values()}
        return self._pieces.decode([int(i) for i in ids if int(i) not in left_out and i < self.vocab_size])

    def spelled(self) -> LLTokenizer:
        """What each id spells, for grammars, which `<|end|>` ends."""
        pieces, ids = self._pieces, range(self.vocab_size)
        spell = lambda i: bytes([int(pieces.id_to_piece(i)[3:-1], 16)]) if pieces.is_byte(i) else self.piece(i).encode()
        special = [i for i in ids if pieces.is_control(i) or pieces.is_unknown(i)]
        return Pieces(list(map(spell, ids)), special, self.control["end"]).spelled()

    def piece(self, token: int) -> str:
        """How a token is spelled, for people."""
        return self._pieces.id_to_piece(int(token)).replace("▁", " ") if token < self.vocab_size else "<unused>"

    def turn(self, role: str, text: str) -> list[int]:
        """One closed message: role symbol, text, end symbol."""
        return [self.control[role], *self.encode(text), self.control["end"]]

    def chat(self, messages: Iterable[dict[str, str]]) -> list[int]:
        """Closed messages followed by an open assistant turn."""
        turns = [token for m in messages for token in self.turn(m["role"], m["content"])]
        return [*turns, self.control["assistant"]]

    def passages(self, texts: Iterable[str]) -> list[int]:
        """Source material as the teacher sees it, before the messages."""
        return [token for text in texts for token in (self.control["document"], *self.encode(text))]

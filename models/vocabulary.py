"""A folder's tokenizer.json: text to ids and back.

A *symbol* is a token that the tokenizer calls special, such as `<|im_end|>`, or that its chat template writes, such as
`<tool_call>`. Symbols come from templates alone. Text that spells one stays text: before a template sees a text, `hide`
puts halves of letters (lone surrogates), which no text has, for the letters of such names, so that the names still
found in what the template wrote are its own. `tokens` puts the letters back and encodes them as the text that they are.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from llguidance import LLTokenizer
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer

from ratchet.models.added import Added, merged
from ratchet.models.architectures import FolderError
from ratchet.models.spacing import AS_IT_IS, Reading, as_read

MARKS = "\udffe\udfff"
"""Halves of letters that stand for none, so that they can mark places in what a template writes."""
_HIDDEN = range(0xDC00, 0xDFFE)
"""Halves of letters that stand for the letters of symbols."""
_HALF = re.compile("[\ud800-\udfff]")
_ANCHOR = "\n"
_SHAPING = ("truncation", "padding")
_SAMPLING = ("dropout", "alpha", "nbest_size")
"""Settings by which a text is cut otherwise each time: of BPE the first, of Unigram the others."""


class Token(NamedTuple):
    """An id, and the letters `[start, end)` of the text that it was made of."""

    id: int
    start: int
    end: int


class Vocabulary:
    """The ids of a tokenizer.json, given as text. `markup` is the source of the chat template; the files `beside` this
    one add tokens, and others tell how transformers is `reading` it. `symbols` holds ids by name, `ids` all that have a
    token, `late` those that templates write and tokenizer.json has not, or whose names are given, since a run's has
    them all; `left_out` are the special ones, which no text shows, and `size` is one more than the largest id.

    What a trainer's last call leaves in the file is neither obeyed nor written again: truncation, padding, and the
    dropout of merges. `source` is the text without it, else as it was given.

    Raises FolderError, which begins with `where`, when it cannot be read.
    """

    def __init__(
        self, source: str, markup: str, where: str, beside: Sequence[Added] = (), reading: Reading = AS_IT_IS,
        late: Sequence[str] = (),
    ):  # fmt: skip
        given = _parsed(source, where)
        self._where, whole = where, as_read(given, reading)
        changed = whole != given
        changed |= _forgets_calls(whole)
        takes = _takes(whole, beside, where)
        changed |= takes
        self.source = json.dumps(whole) if changed else source
        added = [token for token in whole["added_tokens"] if token["content"].strip()]
        written = [token for token in added if token["special"] or token["content"] in markup]
        special = [token["content"] for token in added if token["special"]]
        longest_first = sorted(written, key=lambda token: len(token["content"]), reverse=True)
        self._name = re.compile("|".join(re.escape(token["content"]) for token in longest_first) or r"(?!)")
        self._symbol = re.compile("|".join(map(_with_its_space, longest_first)) or r"(?!)")
        letters = sorted(set("".join(token["content"] for token in written)))
        if len(letters) > len(_HIDDEN):
            many = f"names of special tokens hold {len(letters):,} different letters"
            raise FolderError(f"{where}: {many}, and at most {len(_HIDDEN):,} can be told from text; use another model")
        self._hidden = dict(zip(map(ord, letters), _HIDDEN, strict=False))
        self._letters = {half: letter for letter, half in self._hidden.items()}
        for token in written:
            token["special"] = True
        self._marked = json.dumps(whole)
        self._tokenizer = _read(self._marked, where)
        number = self._tokenizer.token_to_id  # which is not always what the file says: transformers goes by it as well
        self.symbols = {token["content"]: number(token["content"]) for token in written}
        had = _read(source, where).get_vocab() if takes else self.symbols
        came = {one.token.content for one in beside if one.is_written} - had.keys() | {*late}
        self.late = frozenset(self.symbols[name] for name in came if name in self.symbols)
        self._stripped = {name.strip(): name for name in self.symbols}
        self.left_out = frozenset(map(number, special))
        self.ids = frozenset(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.size = max(self.ids, default=-1) + 1
        begins = self._tokenizer.encode("a")
        if 0 not in begins.special_tokens_mask:
            raise FolderError(f"{where}: makes no token of the letter a; fetch it again")
        self._begins = begins.ids[: begins.special_tokens_mask.index(0)]
        alone = self._encoded("a").ids
        self._spaces = self._tokenizer.decode([*alone, *self._encoded("b").ids]).strip() == "a b"
        self._spaces_after_symbols = self._spaces and any(
            self._encoded(f"{name}a", obeyed=True).ids[1:] == alone for name in self.symbols
        )

    def hide(self, value: Any) -> Any:
        """The same text, list or mapping with the names of symbols, wherever they stand, in halves of letters. Raises
        FolderError for a text that has such halves."""
        if isinstance(value, str):
            self._refuse_halves(value)
            return self._name.sub(lambda m: m.group().translate(self._hidden), value)
        if isinstance(value, Mapping):
            return {self.hide(name): self.hide(part) for name, part in value.items()}
        return [self.hide(part) for part in value] if isinstance(value, Sequence) else value

    def tokens(self, text: str, within: bool = False) -> list[Token]:
        """Tokens of a template's output. `within` says that other text goes before, so that the tokenizer must not
        put the space before it that some put before a first word.

        Where nothing is hidden the whole is encoded at once. Else every symbol is an id by itself, and what lies
        between two of them is ordinary text. Raises FolderError for halves of letters that `hide` did not put there.
        """
        if not within and not _HALF.search(text):
            whole = self._encoded(text, obeyed=True)
            return [Token(i, *place) for i, place in zip(whole.ids, whole.offsets, strict=True)]
        found, at = [], 0
        for symbol in [*self._symbol.finditer(text), None]:
            between = text[at : symbol.start() if symbol else None]
            spaced = self._spaces_after_symbols if at else not within
            shown = between.translate(self._letters)
            self._refuse_halves(shown)
            found += self._spelled(shown, at, spaced)
            if symbol:
                name = symbol.group() if symbol.group() in self.symbols else self._stripped[symbol.group().strip()]
                found.append(Token(self.symbols[name], symbol.start(), symbol.end()))
                at = symbol.end()
        return found

    def encode(self, text: str) -> list[int]:
        """Ids of text that goes on after other text, without a space that it does not begin with."""
        return [token.id for token in self._spelled(text, 0, False)]

    def beginning(self, text: str) -> list[int]:
        """Ids of text that nothing goes before, after what the tokenizer puts at the beginning of every text."""
        return [*self._begins, *self._encoded(text).ids]

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`; special tokens, unless asked for, and ids that there are none of, are left out."""
        said = [int(i) for i in ids if i < self.size and (special or int(i) not in self.left_out)]
        return self._tokenizer.decode(said, skip_special_tokens=False)

    def whole(self, text: str, begins: bool) -> list[int]:
        """Ids of text that is not from a template, as transformers' tokenizer gives them: names of special tokens are
        obeyed, and where it `begins`, what the tokenizer puts around every text is there."""
        self._tokenizer.encode_special_tokens = False
        return self._tokenizer.encode(text, add_special_tokens=begins).ids

    def spell(self, token: int) -> bytes:
        """What an id spells; a special token spells its name. The byte 0xff is a mark to llguidance, which drops it."""
        return self._bytes.decode_bytes([int(token)]) or (b"\xff" if int(token) in self.ids else b"")

    def piece(self, token: int) -> str:
        """How an id is spelled, for people."""
        return self._tokenizer.decode([int(token)], skip_special_tokens=False) if token < self.size else "<unused>"

    def spelled(self, end: int) -> LLTokenizer:
        """What each id spells, for grammars, which `end` ends. Symbols spell nothing."""
        return LLTokenizer(self._marked, eos_token=end)

    @functools.cached_property
    def _bytes(self) -> LLTokenizer:
        return LLTokenizer(self._marked, eos_token=0)

    def _refuse_halves(self, text: str) -> None:
        if half := _HALF.search(text):
            raise FolderError(f"{self._where}: no token spells half a letter ({half.group()!a}); give whole letters")

    def _encoded(self, text: str, obeyed: bool = False) -> Encoding:
        """Text in which the names of symbols are `obeyed`, or are text like any other."""
        self._tokenizer.encode_special_tokens = not obeyed
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _spelled(self, text: str, at: int, spaced: bool) -> list[Token]:
        """Tokens of text, no symbol among them, that begins at `at`; `spaced` lets the tokenizer put a space before.

        A tokenizer that always puts one is given a line break before the text, whose ids are then taken off.
        """
        anchor = _ANCHOR if self._spaces and not spaced else ""
        taken, whole = self._encoded(anchor).ids, self._encoded(anchor + text)
        if whole.ids[: len(taken)] != taken:
            return self._spelled(text, at, True)
        places = [(at + start - len(anchor), at + end - len(anchor)) for start, end in whole.offsets]
        return [Token(i, *place) for i, place in list(zip(whole.ids, places, strict=True))[len(taken) :]]


def _parsed(source: str, where: str) -> dict[str, Any]:
    """tokenizer.json with a list of added tokens, each with what is asked of it here."""
    try:
        whole = json.loads(source)
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{where}: cannot be read ({error}); fetch it again") from error
    added = (whole.get("added_tokens") or []) if isinstance(whole, dict) else None
    asked = {"id": int, "content": str, "special": bool, "lstrip": bool, "rstrip": bool}
    has_all = lambda token: all(isinstance(token.get(name), kind) for name, kind in asked.items())
    if not isinstance(added, list) or not all(isinstance(token, dict) and has_all(token) for token in added):
        raise FolderError(f"{where}: is no tokenizer.json of the library tokenizers; fetch it again")
    return {**whole, "added_tokens": added}


def _forgets_calls(whole: dict[str, Any]) -> bool:
    """Takes out what the last call of a trainer left; returns whether there was any."""
    model = whole.get("model")
    sampling = [name for name in _SAMPLING if isinstance(model, dict) and model.get(name)]
    shaping = [name for name in _SHAPING if whole.get(name)]
    for name in sampling:
        del model[name]
    whole.update(dict.fromkeys(shaping))
    return bool(sampling or shaping)


def _takes(whole: dict[str, Any], beside: Sequence[Added], where: str) -> bool:
    """Puts in what other files add; returns whether there was any."""
    try:
        added = merged(whole, beside)
    except Exception as error:  # tokenizers raises nothing narrower
        raise FolderError(f"{where}: cannot be read ({error}); fetch it again") from error
    changed = added != whole["added_tokens"]
    whole["added_tokens"] = added
    return changed


def _read(source: str, where: str) -> FastTokenizer:
    try:
        return FastTokenizer.from_str(source)
    except Exception as error:  # tokenizers raises nothing narrower
        raise FolderError(f"{where}: cannot be read ({error}); fetch it again") from error


def _with_its_space(token: Mapping[str, Any]) -> str:
    """A pattern of a symbol's name, with the space beside it that it takes up."""
    return (r"\s*" if token["lstrip"] else "") + re.escape(token["content"]) + (r"\s*" if token["rstrip"] else "")

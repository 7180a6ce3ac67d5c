"""A Hugging Face folder's tokenizer and chat template: messages in, ids out.

A model is spoken to as it was trained to be: in its own turns, with its own tool calls, by its own yes and no. Nothing
is added to its vocabulary. What turns and calls begin and end with is found by rendering short messages and looking
where they land.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from llguidance import LLTokenizer

from ratchet.models.architectures import FolderError
from ratchet.models.template import TODAY, Rendered, Template
from ratchet.models.vocabulary import MARKS, Vocabulary

WORDING = {
    "sources": "Sources, which the user does not see:",
    "source": "Source {number}:\n{text}",
    "conversation": "Conversation:",
    "question": 'Question: {question}\nAnswer with the one word "Yes" or the one word "No".',
}
"""What a model is told beside the messages."""
ANSWERS = ("Yes", "No")
_HERE, _THERE = MARKS[2:]
_PROBE = "probe"
_ARGUMENTS = json.dumps({_PROBE: _PROBE})
_ARGUMENTS_WRITTEN = re.compile(rf'\{{\s*"{_PROBE}"\s*:\s*"{_PROBE}"\s*\}}')
_CALL_ID = "call00000"
"""Nine letters and digits, which is what Mistral's templates accept."""
_MARKUP = ("<", "[", "{")
"""What a tool call may begin with where it begins with no symbol: no ordinary answer begins so."""


class Chat(NamedTuple):
    """Tokens [N] of messages and, by token, whether the assistant said it."""

    tokens: np.ndarray
    said: np.ndarray


class Calls(NamedTuple):
    """How calls of a tool are written: the ids `begin`, the arguments in JSON after the text `lead`, the ids `end`.

    In Qwen2.5's template these are `<tool_call>\\n{"name": "lookup", "arguments":`, a space, and
    `}\\n</tool_call><|im_end|>`.
    """

    begin: tuple[int, ...]
    lead: str
    end: tuple[int, ...]


class ChatTokenizer:
    """Messages and text to ids, and back.

    `hash` identifies the tokenizer, its template and the wording; `ids` are all that have a token, and `vocab_size` is
    one more than the largest; `end` is the id that closes an assistant's turn; `verdicts` are the ids of yes and no as
    an assistant's first word.

    Raises FolderError when the template refuses a user's and an assistant's message, when it closes an assistant's turn
    by no single id, and when yes and no begin with the same id.
    """

    asks_in_a_row = False
    """Whether several questions with their verdicts may follow each other in one context."""

    def __init__(self, source: str, template: str, settings: Mapping[str, Any], where: str):
        self._settings, self._where = dict(settings), where
        self._vocabulary = Vocabulary(source, template, f"{where}/tokenizer.json")
        named = _named(settings)
        self._template = Template(template, named, where)
        identity = json.dumps([self._vocabulary.source, template, named, WORDING, ANSWERS, str(TODAY)], sort_keys=True)
        self.hash = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.vocab_size, self.ids = self._vocabulary.size, self._vocabulary.ids
        turns = self._template.render([_message("user", _HERE), _message("assistant", _THERE)]).text
        if [letter for letter in turns if letter in MARKS] != [_HERE, _THERE]:
            raise FolderError(f"{where}: the chat template does not write each message once, in order; give another")
        self._before, self._between, after = re.split(f"[{_HERE}{_THERE}]", turns)
        self.end = self._first_symbol(after)
        self.verdicts = self._yes_and_no()
        self._first_role = self._role_of_instructions()
        self._parsed = self._parses_arguments()
        self._known_calls: dict[str, Calls] = {}

    @classmethod
    def load(cls, folder: epath.Path, rows: int | None = None, template: str = "") -> "ChatTokenizer":
        """Reads a folder; `template` replaces its own. `rows` is the number of rows of the model's embedding.

        Raises FolderError when something is missing, and when the tokenizer has ids that the model has not.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise FolderError(f"{folder}: no tokenizer.json; write it again with transformers' save_pretrained")
        settings, own = _settings(folder)
        if not (template or own):
            raise FolderError(f"{folder}: no chat template (chat_template.jinja, or in tokenizer_config.json)")
        made = cls(path.read_text(), template or own, settings, str(folder))
        if rows is not None and made.vocab_size > rows:
            raise FolderError(f"{path}: has the id {made.vocab_size - 1}, but the model's embedding has {rows} rows")
        return made

    def save(self, folder: epath.Path) -> None:
        """Writes the files that `load` and transformers read. tokenizer.json appears last, and whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chat_template.jinja").write_text(self._template.source)
        (folder / "tokenizer_config.json").write_text(json.dumps(self._settings, indent=1))
        (folder / "tokenizer.json.part").write_text(self._vocabulary.source)
        (folder / "tokenizer.json.part").rename(folder / "tokenizer.json")

    def encode(self, text: str) -> list[int]:
        """Ids of text within a turn. What goes on after other words begins with its own space."""
        return self._vocabulary.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens, and rows of the embedding that no id uses, are left out."""
        return self._vocabulary.decode(ids)

    def piece(self, token: int) -> str:
        """How an id is spelled, for people."""
        return self._vocabulary.piece(token)

    def spelled(self) -> LLTokenizer:
        """What each id spells, for grammars, which `end` ends."""
        return self._vocabulary.spelled(self.end)

    def document(self, text: str) -> list[int]:
        """A document that has begun with `text` and goes on."""
        return self._vocabulary.beginning(text)

    def prose(self, beginning: str) -> list[int]:
        """Plain text outside any chat that goes on."""
        return self._vocabulary.beginning(beginning)

    def chat(self, messages: Sequence[Mapping], *, tools: Sequence[Mapping] = (), open_turn: bool = False) -> Chat:
        """Messages by the template, as transformers' `apply_chat_template` gives them; `open_turn` begins an answer.

        Raises FolderError when the template refuses them.
        """
        text, spans = self._rendered(messages, tools, open_turn)
        tokens = self._vocabulary.tokens(text)
        said = [any(token.start < last and token.end > first for first, last in spans) for token in tokens]
        return Chat(np.array([token.id for token in tokens], np.int32), np.array(said, bool))

    def render(
        self,
        messages: Sequence[Mapping],
        *,
        passages: Sequence[str] = (),
        tools: Sequence[Mapping] = (),
        room: int | None = None,
    ) -> list[int]:
        """Passages, messages and an open assistant's turn. Passages are cut from their end so that the whole fits into
        `room` ids; messages that do not fit by themselves are given whole, without passages.

        Raises FolderError when the template refuses the messages.
        """
        if messages and messages[0]["role"] == "system" and self._first_role == "user":
            messages = self._after(messages[0]["content"], messages[1:])

        def with_sources(sources: str) -> list[int]:
            given = self._after(sources, messages) if sources else messages
            return self._ids(self._rendered(given, tools, True).text)

        return self._fitted(with_sources, _sources(passages), room)

    def ask(
        self, question: str, *, passages: Sequence[str] = (), messages: Sequence[Mapping] = (), room: int | None = None
    ) -> tuple[list[int], list[int]]:
        """(context, question) in ids: a question about passages and messages, of which the next token is one of
        `verdicts`. The whole is one user's message.

        Passages are cut so that both fit into `room` ids. The context is the same for every question, however long
        without `room`, else of up to a quarter of it: this much is kept free for one.
        """
        asked = self._vocabulary.hide(WORDING["question"].format(question=question))
        ids, _ = self._until(asked + self._between, ANSWERS[0])
        told = "".join(f"{_told(message)}\n\n" for message in messages)
        conversation = f"{WORDING['conversation']}\n\n{told}" if told else ""

        def context(sources: str) -> list[int]:
            shown = f"{sources}\n\n{conversation}" if sources else conversation
            return self._ids(self._before + self._vocabulary.hide(shown))

        left = None if room is None else room - max(len(ids), room // 4)
        return self._fitted(context, _sources(passages), left), ids

    @property
    def can_call(self) -> bool:
        """Whether the template writes tool calls in a way that can be told from ordinary answers."""
        try:
            return bool(self._calls(_PROBE))
        except FolderError:
            return False

    def calls(self, tool_name: str) -> tuple[int, ...]:
        """The ids that begin a call of this tool, up to the JSON of its arguments. No ordinary answer begins with the
        first of them. Raises FolderError when the template has no such calls."""
        return self._calls(tool_name).begin

    @property
    def call_end(self) -> tuple[int, ...]:
        """The ids after the arguments of a call: what ends it and the turn. Raises FolderError as `calls` does."""
        return self._calls(_PROBE).end

    def call(self, tool_name: str, arguments: str) -> list[int]:
        """A whole call, with its arguments in JSON, and the end of the turn. Raises FolderError as `calls` does."""
        begin, lead, end = self._calls(tool_name)
        return [*begin, *self.encode(lead + arguments), *end]

    def answered(self, text: str) -> list[int]:
        """What goes on after a call: the tool's answer, and an open assistant's turn. Raises FolderError when the
        template has none."""
        answer = _message("tool", text, tool_call_id=_CALL_ID, name=_PROBE)
        whole = self._rendered([_message("user", "a"), _call(_PROBE), answer], (), True).text
        called, tokens = _ARGUMENTS_WRITTEN.search(whole), self._vocabulary.tokens(whole)
        ends = [n for n, t in enumerate(tokens) if called and t.id == self.end and t.start >= called.end()]
        if not ends:
            raise FolderError(f"{self._where}: the chat template writes no answers of tools; use one that does")
        return [token.id for token in tokens[ends[0] + 1 :]]

    def _ids(self, text: str) -> list[int]:
        return [token.id for token in self._vocabulary.tokens(text)]

    def _rendered(self, messages: Sequence[Mapping], tools: Sequence[Mapping], open_turn: bool) -> Rendered:
        read = [_as_templates_read_it(message, self._parsed) for message in messages]
        hide = self._vocabulary.hide
        return self._template.render(hide(read), tools=hide(tools), open_turn=open_turn)

    def _after(self, text: str, messages: Sequence[Mapping]) -> list[Mapping]:
        """The messages with `text` before everything: in the system's message, or in the user's where the template has
        no other."""
        if messages and messages[0]["role"] == self._first_role:
            return [{**messages[0], "content": f"{text}\n\n{messages[0]['content']}"}, *messages[1:]]
        return [_message(self._first_role, text), *messages]

    def _fitted(self, make: Callable[[str], list[int]], sources: str, room: int | None) -> list[int]:
        """The ids that `make` gives for as much of the beginning of `sources` as fits into `room` of them."""
        ids = make(sources)
        while sources and room is not None and len(ids) > room:
            ends = [token.end for token in self._vocabulary.tokens(self._vocabulary.hide(sources), within=True)]
            kept = len(ends) - (len(ids) - room)
            sources = sources[: min(ends[kept - 1], len(sources) - 1)] if kept > 0 else ""
            ids = make(sources)
        return ids

    def _until(self, text: str, word: str) -> tuple[list[int], int]:
        """The ids of a text before a word that ends it, and the id that the word begins with."""
        tokens = self._vocabulary.tokens(text + word, within=True)
        first = next(n for n, token in enumerate(tokens) if token.end > len(text))
        return [token.id for token in tokens[:first]], tokens[first].id

    def _first_symbol(self, after: str) -> int:
        """The id that closes an assistant's turn, found in what the template writes after it."""
        tokens = self._vocabulary.tokens(after, within=True)
        symbol = next((token for token in tokens if token.id in self._vocabulary.symbols.values()), None)
        if symbol is None or after[: symbol.start].strip():
            raise FolderError(
                f"{self._where}: the chat template closes an assistant's turn by no special token of tokenizer.json; "
                "give one that does"
            )
        return symbol.id

    def _yes_and_no(self) -> tuple[int, int]:
        (asked, yes), (same, no) = (self._until(self._between, word) for word in ANSWERS)
        if yes == no or asked != same:
            raise FolderError(f"{self._where}: {' and '.join(ANSWERS)} begin with the same token; use another model")
        return yes, no

    def _role_of_instructions(self) -> str:
        """The role that sources and instructions are given by."""
        try:
            written = self._template.render([_message("system", _HERE), _message("user", _THERE)]).text
        except FolderError:
            return "user"
        return "system" if _HERE in written else "user"

    def _parses_arguments(self) -> bool:
        """Whether the template wants a call's arguments parsed, as most do, or their JSON, as DeepSeek's do."""
        called = _as_templates_read_it(_call(_PROBE), parsed=True)
        try:
            return bool(_ARGUMENTS_WRITTEN.search(self._template.render([_message("user", "a"), called]).text))
        except FolderError:
            return False

    def _calls(self, name: str) -> Calls:
        if name not in self._known_calls:
            self._known_calls[name] = self._find_calls(name)
        return self._known_calls[name]

    def _find_calls(self, name: str) -> Calls:
        """Cuts a call that the template has written around its arguments."""
        refusal = f"{self._where}: the chat template cannot call tools"
        asked = [_message("user", "a")]
        opened = self._rendered(asked, (), True).text
        whole = self._rendered([*asked, _call(name)], (), False).text
        written = _ARGUMENTS_WRITTEN.search(whole)
        if not written or not whole.startswith(opened):
            raise FolderError(f"{refusal}: it writes no JSON of their arguments in an open turn; use a model that does")
        begun = whole[len(opened) : written.start()]
        begin = [token.id for token in self._vocabulary.tokens(begun.rstrip(" "), within=True)]
        symbol = begin[:1] and begin[0] in self._vocabulary.symbols.values()
        if not symbol and not (begin and self.piece(begin[0]).strip().startswith(_MARKUP)):
            raise FolderError(f"{refusal}: a call begins as an ordinary answer may, with {begun[:20]!r}; use another")
        rest = [token.id for token in self._vocabulary.tokens(whole[written.end() :], within=True)]
        if self.end not in rest:
            raise FolderError(f"{refusal}: nothing ends the turn after one; use a model whose template does")
        lead = begun[len(begun.rstrip(" ")) :]
        return Calls(tuple(begin), lead, tuple(rest[: rest.index(self.end) + 1]))


def _message(role: str, content: str, **more: str) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(name: str) -> dict[str, Any]:
    function = {"name": name, "arguments": _ARGUMENTS}
    return _message("assistant", "", tool_calls=[{"id": _CALL_ID, "type": "function", "function": function}])


def _as_templates_read_it(message: Mapping[str, Any], parsed: bool) -> dict[str, Any]:
    """An OpenAI message as templates want it: with content, if only "", and with the arguments of calls `parsed`."""
    made = {name: value for name, value in message.items() if name != "tool_calls"}
    made["content"] = message.get("content") or ""
    if message.get("tool_calls"):
        made["tool_calls"] = [{**call, "function": dict(call["function"])} for call in message["tool_calls"]]
        for call in made["tool_calls"] if parsed else ():
            if isinstance(arguments := call["function"]["arguments"], str):
                call["function"]["arguments"] = json.loads(arguments)
    return made


def _sources(passages: Sequence[str]) -> str:
    numbered = [WORDING["source"].format(number=n, text=text) for n, text in enumerate(passages, 1)]
    return "\n\n".join([WORDING["sources"], *numbered]) if numbered else ""


def _told(message: Mapping[str, Any]) -> str:
    """A message of a conversation that is talked about."""
    called = [f"{c['function']['name']} {c['function']['arguments']}" for c in message.get("tool_calls") or ()]
    said = [message["content"]] if message.get("content") else []
    return f"{message['role']}: " + "\n".join([*said, *called])


def _settings(folder: epath.Path) -> tuple[dict[str, Any], str]:
    """tokenizer_config.json without its chat template, and the template, "" where there is none."""
    path, alone = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        settings = json.loads(path.read_text()) if path.exists() else {}
    except json.JSONDecodeError as error:
        raise FolderError(f"{path}: cannot be read ({error}); fetch it again") from error
    template = settings.pop("chat_template", None) or ""
    if isinstance(template, list):  # several, by name
        template = next((one["template"] for one in template if one["name"] == "default"), "")
    return settings, alone.read_text() if alone.exists() else template


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by the name that templates call them, such as `bos_token`."""
    text = lambda value: value.get("content") if isinstance(value, dict) else value
    return {n: text(v) for n, v in settings.items() if n.endswith("_token") and isinstance(text(v), str)}

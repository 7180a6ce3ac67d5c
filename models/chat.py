"""A Hugging Face folder's tokenizer and chat template: messages in, ids out.

A model is spoken to as it was trained to be: in its own turns, with its own tool calls, by its own yes and no. Nothing
is added to its vocabulary. What turns and calls begin and end with is found by rendering short messages and looking
where they land.
"""

import datetime
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from llguidance import LLTokenizer

from ratchet.models import settings
from ratchet.models.architectures import FolderError, present
from ratchet.models.grammar import Calling, Lead
from ratchet.models.settings import ChatSettings
from ratchet.models.template import Rendered, Template
from ratchet.models.turns import HERE, PROBE, THERE, Turns, answer, call, message, parsed, thinking, thinks
from ratchet.models.vocabulary import MARKS, Token, Vocabulary
from ratchet.models.wording import ANSWERS, WORDING, asking, context, numbered

_ARGUMENTS_WRITTEN = re.compile(rf'\{{\s*"{PROBE}"\s*:\s*"{PROBE}"\s*\}}')
_TOOL = {"type": "function", "function": {"name": PROBE, "description": PROBE, "parameters": {}}}
"""A tool, which chooses the template for tools in folders that have one."""
_MOST_KNOWN = 1024
"""Tools of which it is kept how they are called."""
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

    `hash` identifies the tokenizer, its templates, the wording, and the day where a template asks for it; `ids` are all
    that have a token, `left_out` the special ones, which `decode` leaves out, and `vocab_size` is one more than the
    largest. `late`, `whole` and `spell` are those of `Vocabulary`, and `described` is what transformers is told. What a
    run needs beyond what transformers reads, such as `end` and `verdicts`, is looked for when it is first asked for;
    `check` tells whether all of it is there.
    """

    asks_in_a_row = False
    """Whether several questions with their verdicts may follow each other in one context."""

    def __init__(self, source: str, of_folder: ChatSettings, where: str, now: datetime.datetime):
        self._settings, self._where, self._now = of_folder, where, now
        markup = of_folder.default + of_folder.with_tools
        added, reading, late = of_folder.added, of_folder.reading, of_folder.late
        self._vocabulary = Vocabulary(source, markup, f"{where}/tokenizer.json", added, reading, late)
        self._template = Template(of_folder.default, of_folder.named, where, now)
        self._with_tools, self._tools = self._template, ()
        if of_folder.with_tools != of_folder.default:
            self._with_tools, self._tools = Template(of_folder.with_tools, of_folder.named, where, now), (_TOOL,)
        told = str(now) if of_folder.dated else ""
        spoken = [of_folder.default, of_folder.with_tools, dict(of_folder.named), WORDING, ANSWERS, told]
        identity = json.dumps([self._vocabulary.source, *spoken], sort_keys=True)
        self.hash = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.vocab_size, self.ids = self._vocabulary.size, self._vocabulary.ids
        self.late, self.left_out = self._vocabulary.late, self._vocabulary.left_out
        self._symbols = frozenset(self._vocabulary.symbols.values())
        self.whole, self.spell = self._vocabulary.whole, self._vocabulary.spell
        self.described = {**of_folder.named, "chat_template": of_folder.default}
        self._calls = functools.lru_cache(_MOST_KNOWN)(self._find_calls)
        self._known_turns: dict[Template, Turns | None] = {}

    @classmethod
    def load(
        cls, folder: epath.Path, rows: int | None = None, template: str = "", now: datetime.datetime | None = None
    ) -> "ChatTokenizer":
        """Reads a folder; `template` replaces its own. `rows` is the number of rows of the model's embedding.

        A template that asks for the date is told the one that the folder records, as those of runs do, else `now`,
        which is the time of the call unless it is given.

        Raises FolderError when something is missing or cannot be read, and when the tokenizer has ids that the model
        has not.
        """
        path = folder / "tokenizer.json"
        if not present(path):
            raise FolderError(f"{folder}: no tokenizer.json; write it again with transformers' save_pretrained")
        found = settings.read(folder, template)
        made = cls(settings.text_of(path), found, str(folder), found.now or now or datetime.datetime.now())
        if rows is not None and made.vocab_size > rows:
            raise FolderError(f"{path}: has the id {made.vocab_size - 1}, but the model's embedding has {rows} rows")
        return made

    def save(self, folder: epath.Path, of_run: bool = True) -> None:
        """Writes the files that `load` and transformers read. tokenizer.json appears last, and whole. A folder `of_run`
        records the time that templates were told, to be told it again, and which tokens are late."""
        folder.mkdir(parents=True, exist_ok=True)
        late = {name: i for name, i in sorted(self._vocabulary.symbols.items()) if i in self.late}
        self._settings.write(folder, *((self._now, late) if of_run else (None, {})))
        (folder / "tokenizer.json.part").write_text(self._vocabulary.source)
        (folder / "tokenizer.json.part").rename(folder / "tokenizer.json")

    def check(self) -> None:
        """Raises FolderError when a run cannot speak with the model: when the template refuses a user's and an
        assistant's message, or writes them otherwise than once and in order, when it closes an assistant's turn by no
        single id, and when yes and no begin with the same id."""
        end, verdicts = self.end, self.verdicts  # they are looked for here
        assert end not in verdicts

    def encode(self, text: str) -> list[int]:
        """Ids of text within a turn. What goes on after other words begins with its own space."""
        return self._vocabulary.encode(text)

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of `ids`; special tokens, unless asked for, and unused rows of the embedding are left out."""
        return self._vocabulary.decode(ids, special)

    def piece(self, token: int) -> str:
        """How an id is spelled, for people."""
        return self._vocabulary.piece(token)

    def spelled(self) -> LLTokenizer:
        """What each id spells, for grammars, which `end` ends."""
        return self._vocabulary.spelled(self.end)

    def document(self, text: str) -> list[int]:
        """Ids of a document that has begun with `text` and goes on."""
        return self._vocabulary.beginning(text)

    def prose(self, beginning: str) -> list[int]:
        """Ids of plain text outside any chat that has begun so and goes on."""
        return self._vocabulary.beginning(beginning)

    def chat(self, messages: Sequence[Mapping], *, tools: Sequence[Mapping] = (), open_turn: bool = False) -> Chat:
        """Messages by the template, as transformers' `apply_chat_template` gives them; `open_turn` begins an answer.
        Where a template marks nothing as said by the assistant, its turns are found by how it opens and closes them.

        Raises FolderError when there are no messages, or the template refuses them.
        """
        if not messages:
            raise FolderError(f"{self._where}: there are no messages to write; give one")
        taken = self._taken(messages)
        text, spans = self._written(taken, tools, open_turn)
        chosen = self._with_tools if tools else self._template
        if not chosen.marks and (turns := self._turns(chosen)):
            spans = turns.said(lambda given: self._written(given, tools, open_turn).text, taken)
        tokens = self._vocabulary.tokens(text)
        said = [any(token.start < last and token.end > first for first, last in spans) for token in tokens]
        return Chat(np.array([token.id for token in tokens], np.int32), np.array(said, bool))

    @property
    def marks(self) -> bool:
        """Whether the template itself marks what the assistant says."""
        return self._template.marks

    def render(
        self,
        messages: Sequence[Mapping],
        *,
        passages: Sequence[str] = (),
        tools: Sequence[Mapping] = (),
    ) -> list[int]:
        """Passages, messages and an open assistant's turn. Raises FolderError when the template refuses the
        messages."""
        if messages and messages[0]["role"] == "system" and self._first_role == "user":
            messages = self._after(self._said(messages[0]), messages[1:])
        given = self._after(numbered(passages), messages) if passages else messages
        return self._ids(self._prompt(self._taken(given), tools))

    def ask(
        self,
        question: str,
        *,
        passages: Sequence[str] = (),
        messages: Sequence[Mapping] = (),
        words: Sequence[str] = (),
    ) -> tuple[list[int], list[int]]:
        """(context, question) in ids: a question about passages and messages, of which the next token is one of
        `verdicts`, or what is `spoken` next one of `words`. The whole is one user's message, in which every line of
        what is asked about is indented. The context is the same for every question.
        """
        ids, _ = self._until(self._vocabulary.hide(asking(question, words)) + self._turn[1], [*words, *ANSWERS][0])
        return self._ids(self._turn[0] + self._vocabulary.hide(context(passages, messages))), ids

    def spoken(self, word: str) -> tuple[int, ...]:
        """The ids of a word that an assistant's turn begins with."""
        begun, _ = self._until(self._turn[1], word)
        return tuple(self._ids(self._turn[1] + word, within=True)[len(begun) :])

    @property
    def can_call(self) -> bool:
        """Whether the template writes tool calls in a way that can be told from ordinary answers."""
        try:
            return bool(self._calls(PROBE))
        except FolderError:
            return False

    def calls(self, tool_name: str) -> tuple[int, ...]:
        """The ids that begin a call of this tool, up to the JSON of its arguments. No ordinary answer begins with the
        first of them. Raises FolderError when the template has no such calls."""
        return self._calls(tool_name).begin

    def calling(self, names: Sequence[str]) -> Calling:
        """How these tools are called. Raises FolderError as `calls` does, and when their calls begin differently."""
        written = {name: self._calls(name) for name in names}
        opening = commonprefix([self.calls(name) for name in names])
        if not opening:
            raise FolderError(f"{self._where}: calls of {', '.join(names)} begin differently; use another model")
        return Calling(opening, {name: self.parts(calls.begin[len(opening) :]) for name, calls in written.items()})

    def parts(self, ids: Sequence[int]) -> Lead:
        """What ids spell, and the symbols among them."""
        found = []
        for is_symbol, some in itertools.groupby(ids, self._symbols.__contains__):
            together = list(some)
            found += together if is_symbol else [b"".join(map(self.spell, together)).decode()]
        return tuple(found)

    @property
    def call_end(self) -> tuple[int, ...]:
        """The ids after the arguments of a call: what ends it and the turn. Raises FolderError as `calls` does."""
        return self._calls(PROBE).end

    def call(self, tool_name: str, arguments: str) -> list[int]:
        """A whole call, with its arguments in JSON, and the end of the turn. Raises FolderError as `calls` does."""
        begin, lead, end = self._calls(tool_name)
        return [*begin, *self.encode(lead + arguments), *end]

    def answered(self, text: str) -> list[int]:
        """What goes on after a call: the tool's answer, and an open assistant's turn. Raises FolderError when the
        template has none."""
        whole = self._prompt([message("user", "a"), self._call(PROBE), *self._taken([answer(text)])], self._tools)
        called, tokens = _ARGUMENTS_WRITTEN.search(whole), self._vocabulary.tokens(whole)
        ends = [n for n, t in enumerate(tokens) if called and t.id == self.end and t.start >= called.end()]
        if not ends:
            raise FolderError(f"{self._where}: the chat template writes no answers of tools; use one that does")
        return [token.id for token in tokens[ends[0] + 1 :]]

    def _ids(self, text: str, within: bool = False) -> list[int]:
        """Ids of what a template wrote; `within` as in `Vocabulary.tokens`."""
        return [token.id for token in self._vocabulary.tokens(text, within)]

    def _taken(self, messages: Sequence[Mapping]) -> list[Mapping]:
        """Messages from outside, in the form that the template wants, with the names of symbols hidden, so that none of
        their words can be taken for one. A thought that an assistant's message begins with keeps its marks."""
        hide = self._vocabulary.hide
        given = [parsed(message) if self._parses else message for message in messages]
        return [{**hide(m), "content": thinking(m["content"], hide)} if thinks(m) else hide(m) for m in given]

    def _call(self, name: str) -> Mapping:
        """A call of a tool, in the form that the template wants."""
        return parsed(call(name)) if self._parses else call(name)

    def _written(
        self, messages: Sequence[Mapping], tools: Sequence[Mapping], open_turn: bool, **switches: bool
    ) -> Rendered:
        """What the template for these tools writes."""
        chosen = self._with_tools if tools else self._template
        return chosen.render(messages, tools=self._vocabulary.hide(tools), open_turn=open_turn, **switches)

    def _prompt(self, messages: Sequence[Mapping], tools: Sequence[Mapping] = (), open_turn: bool = True) -> str:
        """What a template writes for a model that is to answer. One that can think aloud before is told not to, by the
        switch that Qwen3's template has."""
        return self._written(messages, tools, open_turn, enable_thinking=False).text

    def _after(self, text: str, messages: Sequence[Mapping]) -> list[Mapping]:
        """The messages with `text` before everything: in the system's message, or in the user's where the template has
        no other. Raises FolderError where that message is in parts."""
        if messages and messages[0]["role"] == self._first_role:
            whole = "\n\n".join(filter(None, (text, self._said(messages[0]))))
            return [{**messages[0], "content": whole}, *messages[1:]]
        return [message(self._first_role, text), *messages] if text else [*messages]

    def _said(self, given: Mapping) -> str:
        """The text of a message, "" where it has none. Raises FolderError for one in parts."""
        said = given.get("content") or ""
        if not isinstance(said, str):
            raise FolderError(f"{self._where}: the first message is in parts; give its content as one text")
        return said

    def _until(self, text: str, word: str) -> tuple[list[int], int]:
        """The ids of a text before a word that ends it, and the id that the word begins with."""
        tokens = self._vocabulary.tokens(text + word, within=True)
        first = next(n for n, token in enumerate(tokens) if token.end > len(text))
        return [token.id for token in tokens[:first]], tokens[first].id

    @functools.cached_property
    def _turn(self) -> tuple[str, str, str]:
        """What the template writes before a user's words, between them and an assistant's, and after those."""
        turns = self._prompt([message("user", HERE), message("assistant", THERE)], open_turn=False)
        if [letter for letter in turns if letter in MARKS] != [HERE, THERE]:
            raise FolderError(
                f"{self._where}: the chat template does not write each message once, in order; give another"
            )
        return tuple(re.split(f"[{HERE}{THERE}]", turns))

    @functools.cached_property
    def _closing(self) -> Token:
        """The symbol that closes an assistant's turn, found in what the template writes after it."""
        after = self._turn[2]
        tokens = self._vocabulary.tokens(after, within=True)
        symbol = next((token for token in tokens if token.id in self._symbols), None)
        if symbol is None or after[: symbol.start].strip():
            raise FolderError(
                f"{self._where}: the chat template closes an assistant's turn by no special token of tokenizer.json; "
                "give one that does"
            )
        return symbol

    @functools.cached_property
    def end(self) -> int:
        """The id that closes an assistant's turn. Raises FolderError as `check` does."""
        return self._closing.id

    @property
    def special_ids(self) -> dict[str, Any]:
        """The ids that transformers' `generate` begins, pads and ends with, by its names; what closes an assistant's
        turn ends an answer too. Raises FolderError as `check` does."""
        of = self._vocabulary.symbols.get
        named = {name: of(self.described.get(f"{name}_token")) for name in ("bos", "pad", "eos")}
        ends = [self.end, *({named.pop("eos")} - {self.end, None})]
        return {f"{name}_token_id": i for name, i in named.items() if i is not None} | {"eos_token_id": ends}

    @functools.cached_property
    def verdicts(self) -> tuple[int, int]:
        """The ids of yes and no as an assistant's first word. Raises FolderError as `check` does."""
        (asked, yes), (same, no) = (self._until(self._turn[1], word) for word in ANSWERS)
        if yes == no or asked != same:
            raise FolderError(f"{self._where}: {' and '.join(ANSWERS)} begin with the same token; use another model")
        return yes, no

    @functools.cached_property
    def _first_role(self) -> str:
        """The role that sources and instructions are given by."""
        try:
            written = self._prompt([message("system", HERE), message("user", THERE)], open_turn=False)
        except FolderError:
            return "user"
        return "system" if HERE in written else "user"

    @functools.cached_property
    def _parses(self) -> bool:
        """Whether the arguments of calls must be parsed, as most templates want them, and not stand as their JSON, as
        DeepSeek's do."""
        try:
            written = self._with_tools.render([message("user", "a"), call(PROBE)], tools=self._tools).text
        except FolderError:
            return True
        return not _ARGUMENTS_WRITTEN.search(written)

    def _turns(self, template: Template) -> Turns | None:
        """Where the assistant speaks in what a template writes; None where that cannot be told."""
        if template not in self._known_turns:
            render = lambda messages: template.render(messages, tools=self._tools).text
            try:
                end = self._turn[2][self._closing.start : self._closing.end]
                self._known_turns[template] = Turns(render, self._call(PROBE), end)
            except FolderError:
                self._known_turns[template] = None
        return self._known_turns[template]

    def _find_calls(self, name: str) -> Calls:
        """Cuts a call that the template has written around its arguments."""
        refusal = f"{self._where}: the chat template cannot call tools"
        asked = [message("user", "a")]
        opened = self._prompt(asked, self._tools)
        whole = self._prompt([*asked, self._call(name)], self._tools, open_turn=False)
        written = _ARGUMENTS_WRITTEN.search(whole)
        if not written or not whole.startswith(opened):
            raise FolderError(f"{refusal}: it writes no JSON of their arguments in an open turn; use a model that does")
        begun = whole[len(opened) : written.start()]
        begin = self._ids(begun.rstrip(" "), within=True)
        symbol = begin[:1] and begin[0] in self._symbols
        if not symbol and not (begin and self.piece(begin[0]).strip().startswith(_MARKUP)):
            raise FolderError(f"{refusal}: a call begins as an ordinary answer may, with {begun[:20]!r}; use another")
        rest = self._ids(whole[written.end() :], within=True)
        if self.end not in rest:
            raise FolderError(f"{refusal}: nothing ends the turn after one; use a model whose template does")
        lead = begun[len(begun.rstrip(" ")) :]
        return Calls(tuple(begin), lead, tuple(rest[: rest.index(self.end) + 1]))

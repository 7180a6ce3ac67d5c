"""Short messages that show how a chat template writes turns, and where the assistant speaks in what it wrote, for
templates that do not mark it themselves."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

from ratchet.models.architectures import FolderError
from ratchet.models.vocabulary import MARKS

HERE, THERE = MARKS
"""Letters that no text has, to be found in a template's output."""
PROBE = "probe"
ARGUMENTS = json.dumps({PROBE: PROBE})
_CALL_ID = "call00000"
"""Nine letters and digits, which is what Mistral's templates accept."""
_LETTER = re.compile("[A-Za-z0-9]")
_THOUGHT = re.compile(r"(\s*<think>)(.*?)(</think>)", re.DOTALL)

Render = Callable[[Sequence[Mapping]], str]
"""Messages to a template's output."""


def message(role: str, content: str, **more: Any) -> dict[str, Any]:
    """One message of a chat."""
    return {"role": role, "content": content, **more}


def call(name: str) -> dict[str, Any]:
    """An assistant's message that calls a tool with `ARGUMENTS`."""
    function = {"name": name, "arguments": ARGUMENTS}
    return message("assistant", "", tool_calls=[{"id": _CALL_ID, "type": "function", "function": function}])


def answer(text: str) -> dict[str, Any]:
    """The message of a tool that answers such a call."""
    return message("tool", text, tool_call_id=_CALL_ID, name=PROBE)


def parsed(called: Any) -> Any:
    """A message with the arguments of its calls as mappings, where they are JSON; what is no message stays."""
    calls = called.get("tool_calls") if isinstance(called, Mapping) else None
    return {**called, "tool_calls": [_parsed(one) for one in calls]} if isinstance(calls, list) else called


def thinks(said: Any) -> bool:
    """Whether a message is an assistant's that begins with a thought: `<think>so</think>it is 7`, as reasoning models
    write and datasets keep it."""
    content = said.get("content") if isinstance(said, Mapping) and said.get("role") == "assistant" else None
    return isinstance(content, str) and bool(_THOUGHT.match(content))


def thinking(content: str, hide: Callable[[str], str]) -> str:
    """The content of a message that `thinks`, with everything hidden but the two marks of that thought."""
    begin, thought, end = _THOUGHT.match(content).groups()
    return begin + hide(thought) + end + hide(content[len(begin + thought + end) :])


def _parsed(one: Any) -> Any:
    """One call with its arguments as a mapping, where they are JSON."""
    if not isinstance(one, Mapping):
        return one
    if "function" in one:
        return {**one, "function": _parsed(one["function"])}
    try:
        return {**one, "arguments": json.loads(one["arguments"])}
    except (KeyError, TypeError, ValueError):  # none, a mapping already, or words that are no JSON and stay
        return one


class Turns:
    """What the assistant's turns stand between: one of several openings, and `end`, which is itself said.

    The openings are found by rendering short messages, among them `called`, a `call` in the form that the template
    takes. In ChatML the one opening is `<|im_start|>assistant\\n`; in Mistral's templates, which have no name for the
    role, they are what a user's turn and a tool's answer end with.

    Raises FolderError when the template refuses a user's and an assistant's message.
    """

    def __init__(self, render: Render, called: Mapping, end: str):
        asked, said = message("user", HERE), message("assistant", THERE)
        turns = [said], [said, message("user", "a")], [{**said, "reasoning_content": "a"}]
        written = commonprefix([_between(render([asked, *turn])) for turn in turns])  # thoughts belong to what is said
        role = written.removeprefix(render([asked]).partition(HERE)[2])
        openings = [role if role.strip() else written]
        try:
            after_a_tool = _between(render([message("user", "a"), called, answer(HERE), said]))
        except FolderError:  # a template without tools
            after_a_tool = ""
        if openings[0] not in after_a_tool:
            openings.append(after_a_tool)
        begins = "|".join(re.escape(opening) for opening in openings if opening.strip()) or "(?!)"
        self._turn = re.compile(f"(?:{begins})(.*?{re.escape(end)})", re.DOTALL)

    def said(self, render: Render, messages: Sequence[Mapping]) -> list[tuple[int, int]]:
        """The spans `[start, end)` that the assistant says of what `render` makes of the messages.

        Everyone else's words are rendered as a letter repeated, so that none is taken for an opening; a span that
        changes with the letter holds someone else's words and is left out.
        """
        plain, one, other = (render(said) for said in (messages, _veiled(messages, "x"), _veiled(messages, "y")))
        if not len(plain) == len(one) == len(other):
            return []
        spans = [turn.span(1) for turn in self._turn.finditer(one)]
        return [(start, end) for start, end in spans if one[start:end] == other[start:end]]


def _between(text: str) -> str:
    """What a template writes between a turn that says `HERE` and one that says `THERE`."""
    return text.partition(HERE)[2].partition(THERE)[0]


def _veiled(messages: Sequence[Mapping], letter: str) -> list[dict[str, Any]]:
    """The messages with `letter` for every letter and digit that someone other than the assistant says."""
    return [{**m, "content": _veil(m["content"], letter)} if _is_heard(m) else dict(m) for m in messages]


def _is_heard(said: Mapping[str, Any]) -> bool:
    """Whether someone other than the assistant says something in a message."""
    return said.get("role") != "assistant" and said.get("content") is not None


def _veil(content: Any, letter: str) -> Any:
    """A content, of text or in parts, whose texts are veiled."""
    if isinstance(content, str):
        return _LETTER.sub(letter, content)
    if isinstance(content, Sequence):
        return [_veil(part, letter) for part in content]
    if isinstance(content, Mapping) and "text" in content:
        return {**content, "text": _veil(content["text"], letter)}
    return content

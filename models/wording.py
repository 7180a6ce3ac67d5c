"""What a model of a folder is told beside the messages: sources, conversations that are talked about, and questions."""

from collections.abc import Mapping, Sequence
from typing import Any

WORDING = {
    "sources": "Sources, which the user does not see:",
    "source": "Source {number}:\n{text}",
    "conversation": "Conversation:",
    "question": "Question: {question}\n",
    "verdict": 'Answer with the one word "Yes" or the one word "No".',
    "words": "Answer with one of these, and nothing else: {words}.",
}
ANSWERS = ("Yes", "No")
INDENT = "  "


def context(passages: Sequence[str], messages: Sequence[Mapping[str, Any]]) -> str:
    """Passages and a conversation, before a question about them. Their lines are indented, so that none can be taken
    for a heading, or for another question."""
    sources = numbered([f"{INDENT}{indented(text)}" for text in passages])
    earlier = "\n\n".join([WORDING["conversation"], *map(told, messages)]) if messages else ""
    return "".join(f"{part}\n\n" for part in (sources, earlier) if part)


def asking(question: str, words: Sequence[str]) -> str:
    """A question to answer by yes or no or, where `words` are given, by one of them."""
    answer = WORDING["words"].format(words=", ".join(words)) if words else WORDING["verdict"]
    return WORDING["question"].format(question=indented(question)) + answer


def numbered(passages: Sequence[str]) -> str:
    """Passages by number, after a line that says what they are; "" without any."""
    shown = [WORDING["source"].format(number=n, text=text) for n, text in enumerate(passages, 1)]
    return "\n\n".join([WORDING["sources"], *shown]) if shown else ""


def told(message: Mapping[str, Any]) -> str:
    """A message of a conversation that is talked about."""
    called = [f"{c['function']['name']} {c['function']['arguments']}" for c in message.get("tool_calls") or ()]
    said = [message["content"]] if message.get("content") else []
    return f"{message['role']}: " + indented("\n".join([*said, *called]))


def indented(text: str) -> str:
    """A text whose lines, but for the first, are indented, whatever parts them."""
    return f"\n{INDENT}".join(text.splitlines())

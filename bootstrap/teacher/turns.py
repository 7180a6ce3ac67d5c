"""Turns of a chat in which tools may be called, in the words of OpenAI's web API."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.bootstrap.teacher.client import Failed, checked

Turn = tuple[str, bool, tuple[str, Any] | None]
"""What is said, whether the turn ended by itself, and the call that it makes: the tool's name, and JSON."""


def offering(tools: Sequence[Mapping[str, Any]], may_call: bool) -> dict[str, Any]:
    """What a chat says of its tools; where none may be called any more, it still holds what was called."""
    offered = [{"type": "function", "function": dict(tool)} for tool in tools]
    return {"tools": offered, "tool_choice": "auto" if may_call else "none"}


def turned(answer: Any) -> Turn:
    """What an answer says and calls; of several calls at once the first. Arguments that are no JSON, such as those of a
    turn that was cut off, are None. Raises Failed for what is no answer."""
    text, ended = checked(answer)
    try:
        calls = answer["choices"][0]["message"].get("tool_calls") or []
        made = [(one["function"]["name"], one["function"]["arguments"]) for one in calls[:1]]
    except (LookupError, TypeError, AttributeError):
        raise Failed("malformed call") from None
    if not all(isinstance(name, str) for name, _ in made):
        raise Failed("malformed call")
    return text, ended and not made, (made[0][0], _read(made[0][1])) if made else None


def _read(arguments: Any) -> Any:
    try:
        return json.loads(arguments)
    except (TypeError, ValueError, RecursionError):
        return None

"""What is asked of tools, and what answers."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ratchet.bootstrap.worlds.world import Tool

Listed = Mapping[str, Mapping[str, Any]]
"""By server, as JSON: its `tools` that may be called, as chat templates describe them, and the hash of its `command`.
Addresses, keys and limits are not of it: they may change while a run goes on."""


class Asked(NamedTuple):
    """A call of a tool by name and arguments, and the seconds that are left for its answer."""

    name: str
    arguments: Mapping[str, Any]
    seconds: float


class Answered(NamedTuple):
    """What a tool says, and the seconds that it took."""

    text: str
    seconds: float


class Source(Protocol):
    """Where some tools come from. Whatever goes wrong there is an answer that says so."""

    @property
    def described(self) -> Sequence[Mapping[str, Any]]:
        """The tools as chat templates and OpenAI's servers describe them: name, description, and parameters as a JSON
        schema."""

    def answers(self, asked: Sequence[Asked]) -> list[Answered]:
        """What the tools say to calls, in order."""


class Functions:
    """Tools that are functions of their arguments, such as those of a world."""

    def __init__(self, tools: Sequence[Tool]):
        self._tools = {tool.name: tool for tool in tools}

    @property
    def described(self) -> list[dict[str, Any]]:
        return [
            {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
            for tool in self._tools.values()
        ]

    def answers(self, asked: Sequence[Asked]) -> list[Answered]:
        return [timed(lambda one=one: self._tools[one.name].run(one.arguments)) for one in asked]


def timed(answer: Callable[[], str]) -> Answered:
    """What a function says, and how long it took."""
    began = time.monotonic()
    return Answered(answer(), time.monotonic() - began)

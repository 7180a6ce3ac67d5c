"""Chat templates (Jinja), as transformers renders them, with places in their output."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ratchet.models.architectures import FolderError
from ratchet.models.vocabulary import MARKS

TODAY = datetime.datetime(2024, 7, 26)
"""What a template that asks for the date is always told, so that the same messages are the same ids tomorrow. Llama 3's
templates fall back on this date."""
_OPEN, _CLOSE = MARKS[:2]


class Rendered(NamedTuple):
    """A template's output, and the spans `[start, end)` of it that `{% generation %}` says are the assistant's."""

    text: str
    said: list[tuple[int, int]]


class Template:
    """Messages to text. `named` holds special tokens by the name that templates call them, such as `bos_token`.

    Raises FolderError, which begins with `where`, for a template that cannot be read.
    """

    def __init__(self, source: str, named: Mapping[str, str], where: str):
        self.source, self._named, self._where = source, dict(named), where
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=TODAY.strftime)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise FolderError(f"{where}: the chat template cannot be read ({error})") from error

    def render(
        self, messages: Sequence[Mapping], *, tools: Sequence[Mapping] = (), open_turn: bool = False
    ) -> Rendered:
        """The messages as one text; `open_turn` begins an answer. A model that can think aloud before it answers is
        told not to, by the switch that Qwen3's template has. Raises FolderError when the template refuses them."""
        given = {"messages": messages, "tools": tools or None, "add_generation_prompt": open_turn}
        try:
            text = self._template.render(**given, enable_thinking=False, **self._named)
        except Exception as error:  # whatever the template's own code raises
            raise FolderError(f"{self._where}: the chat template refuses the messages: {_line(error)}") from error
        plain, said, start = "", [], 0
        for part in re.split(f"([{_OPEN}{_CLOSE}])", text):
            if part == _OPEN:
                start = len(plain)
            elif part == _CLOSE:
                said.append((start, len(plain)))
            else:
                plain += part
        return Rendered(plain, said)


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks what the assistant says."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    @staticmethod
    def _marked(caller) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _to_json(value: Any, ensure_ascii: bool = False, **options) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

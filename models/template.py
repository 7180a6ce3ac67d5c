"""Chat templates (Jinja), rendered as transformers renders them, and where in their output the assistant speaks."""

import datetime
import functools
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.runtime import str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from ratchet.models.architectures import FolderError

_LONGEST = 1 << 24
"""Letters of output, of what a template repeats, and of what it pads a text to, beyond which a template is refused."""
_WIDEST = 1 << 16
"""Bits of a product or power of numbers, beyond which a template is refused."""
_SECONDS = 20.0
"""Time of the processor that writing a text may take: a conversation takes milliseconds."""
_WIDE = re.compile(r"%[^a-zA-Z%]*(?:\d{7}|\*)|\{[^{}]*:[^{}]*\d{7}")
"""A format that pads by ten million or more, or by a value."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names that a message's reasoning goes by; templates read the first, those of gpt-oss the second."""


class Rendered(NamedTuple):
    """A template's output, and the spans `[start, end)` of it that `{% generation %}` says are the assistant's."""

    text: str
    said: list[tuple[int, int]]


class Template:
    """Messages to text, with everything that transformers' `apply_chat_template` gives to a template.

    `named` holds special tokens by the name that templates call them, such as `bos_token`; `now` is what a template is
    told that asks for the date. `marks` tells whether the template has `{% generation %}`.

    Raises FolderError, which begins with `where`, for a template that cannot be read.
    """

    def __init__(self, source: str, named: Mapping[str, str], where: str, now: datetime.datetime):
        self._named, self._where = dict(named), where
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        environment.filters["tojson"] = _asking(environment, "tojson", _to_json)
        environment.globals.update(
            raise_exception=_raise, strftime_now=now.strftime, dict=_Dict(), namespace=_PublicNamespace
        )
        self._environment, self._generation = environment, environment.extensions[_Generation.identifier]
        try:
            source.encode()
            self._template = environment.from_string(source)
        except Exception as error:  # Jinja's own, and Python's of lone surrogates and of blocks too deep
            raise FolderError(f"{where}: the chat template cannot be read ({_line(error)})") from error
        self.marks = self._generation.found

    def render(
        self, messages: Sequence[Mapping], *, tools: Sequence[Mapping] = (), open_turn: bool = False, **switches: bool
    ) -> Rendered:
        """The messages as one text; `open_turn` begins an answer. `switches` are variables of the template's own, such
        as `enable_thinking`. Raises FolderError when the template refuses the messages."""
        self._environment.begin()
        given = {"tools": list(tools) or None, "documents": None, "add_generation_prompt": open_turn}
        written, length = [], 0
        said = self._generation.follow(written)
        try:
            read = [_as_templates_read_it(message) for message in messages]
            for part in self._template.generate(**self._named | given | switches, messages=read):
                written.append(part)
                length += len(part)
                if length > _LONGEST:
                    raise OverflowError(f"it writes more than {_LONGEST:,} letters")
        except Exception as error:  # whatever the template's own code raises
            raise FolderError(f"{self._where}: the chat template refuses the messages: {_line(error)}") from error
        return Rendered("".join(written), said)


def asks_for_the_date(source: str) -> bool:
    """Whether what a template writes may depend on the day."""
    return "strftime_now" in source


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: marks what the assistant says.

    A span begins where the output ended that was written when the block was reached. This is how transformers counts;
    both are wrong alike for a block within a macro.
    """

    tags = {"generation"}

    def __init__(self, environment: jinja2.Environment):
        super().__init__(environment)
        self.found, self._written, self._spans = False, [], []

    def follow(self, written: list[str]) -> list[tuple[int, int]]:
        """A list that is filled with the spans of the output whose parts are appended to `written`."""
        self._written, self._spans = written, []
        return self._spans

    def parse(self, parser):
        self.found = True
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller) -> str:
        said, start = caller(), sum(map(len, self._written))
        self._spans.append((start, start + len(said)))
        return said


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses texts that would fill the memory, and templates that do not end.

    Every turn of a loop, every call and every filter asks whether there is time left.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **settings):
        super().__init__(**settings)
        self._until = math.inf
        self.filters = {name: _asking(self, name, given) for name, given in self.filters.items()}

    def begin(self) -> None:
        """Gives the next text that is written _SECONDS of the processor's time."""
        self._until = time.thread_time() + _SECONDS

    def goes_on(self) -> bool:
        """True, which a loop asks at every turn. Raises TimeoutError when the time is over."""
        if time.thread_time() > self._until:
            raise TimeoutError(f"it takes more than {_SECONDS:g} seconds")
        return True

    def call(self, context, function: Callable, /, *given, **named) -> Any:
        self.goes_on()
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps str.format
        if isinstance(text := getattr(method, "__self__", None), str):
            _refuse_padding(*given, *named.values())
            if method.__name__ in ("format", "format_map"):
                _refuse_width(text)
        return _bounded(super().call(context, function, *given, **named))

    def call_binop(self, context, operator: str, left: Any, right: Any) -> Any:
        _refuse_product(operator, left, right)
        if operator == "%" and isinstance(left, str):
            _refuse_width(left)
        return _bounded(super().call_binop(context, operator, left, right))

    def joined(self, *parts: Any) -> str:
        """What `~` makes of its operands."""
        return _bounded(str_join(parts))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template with loops that ask, and joins that are bounded; what a loop leaves out by its `if` counts as a
        turn."""
        parsed = _Joins(self).visit(super()._parse(source, name, filename))
        for loop in parsed.find_all(nodes.For):
            ask = nodes.Call(nodes.EnvironmentAttribute("goes_on"), [], [], None, None)
            loop.test = nodes.And(ask, loop.test) if loop.test else ask
            loop.test.set_lineno(loop.lineno).set_environment(self)
        return parsed


def _asking(environment: _Sandbox, name: str, given: Callable) -> Callable:
    """A filter that first asks whether there is time left, and pads nothing beyond the bound."""

    @functools.wraps(given)
    def asking(*values, **named) -> Any:
        environment.goes_on()
        if name in ("batch", "center", "indent", "slice", "tojson"):
            _refuse_padding(*values[1:], *named.values())
        if name == "format" and isinstance(values[0], str):
            _refuse_width(values[0])
        return _bounded(given(*values, **named))

    return asking


class _Joins(NodeTransformer):
    """Has `~` be a call of the environment's `joined`."""

    def __init__(self, environment: _Sandbox):
        self._environment = environment

    def visit_Concat(self, node: nodes.Concat) -> nodes.Call:
        parts = self.generic_visit(node).nodes
        made = nodes.Call(nodes.EnvironmentAttribute("joined"), parts, [], None, None)
        return made.set_lineno(node.lineno).set_environment(self._environment)


def _bounded(made: Any) -> Any:
    """What one operation made, which is refused beyond the bound, so that no loop of them fills the memory."""
    if isinstance(made, str | list | tuple) and len(made) > _LONGEST:
        raise OverflowError(f"it makes more than {_LONGEST:,} letters or entries")
    return made


def _refuse_padding(*given: Any) -> None:
    if any(isinstance(value, int) and value > _LONGEST for value in given):
        raise OverflowError(f"it pads to more than {_LONGEST:,}")


def _refuse_width(form: str) -> None:
    """Refuses a format that says a width or a precision beyond the bound, or one that stands among its values."""
    if _WIDE.search(form):
        raise OverflowError(f"{form[:40]!r} pads to a width that there is no room for")


def _refuse_product(operator: str, left: Any, right: Any) -> None:
    """Refuses a text or list that is repeated beyond the bound, and a number of too many bits."""
    match operator, left, right:
        case "**", int(), int():
            large = left.bit_length() * right > _WIDEST
        case "*", int(), int():
            large = left.bit_length() + right.bit_length() > _WIDEST
        case "*", int(), str() | list() | tuple():
            large = left * len(right) > _LONGEST
        case "*", str() | list() | tuple(), int():
            large = len(left) * right > _LONGEST
        case _:
            large = False
    if large:
        raise OverflowError(f"{operator} makes more than there is room for")


class _Dict:
    """What templates may do with `dict`."""

    def __call__(self, *pairs, **named) -> dict:
        return dict(*pairs, **named)

    def fromkeys(self, *given) -> dict:
        return dict.fromkeys(*given)


class _PublicNamespace(Namespace):
    """Jinja's namespace, which refuses names that begin with an underscore."""

    def __init__(*args, **named):  # `namespace(self=...)` is allowed
        self, *pairs = args
        made = dict(*pairs, **named)
        for name in made:
            _refuse_private(name)
        Namespace.__init__(self, made)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no name {name!r}")


def _as_templates_read_it(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without the keys that are null, and with its reasoning under the names that templates know."""
    made = {name: value for name, value in message.items() if value is not None}
    reasoning = next((made[name] for name in _REASONING if name in made), None)
    return made if reasoning is None else {"thinking": reasoning} | made | {"reasoning_content": reasoning}


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _line(error: Exception) -> str:
    """What an error says, with a question mark for each hidden letter of what it quotes."""
    return " ".join(str(error).encode(errors="replace").decode().split()) or type(error).__name__

"""What a simulating model may call: `lookup`, the tools of its world, and those that the settings offer.

What samples a call keeps it to the tools' names and schemas.
"""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.toolkit.source import Answered, Asked, Listed, Source
from ratchet.bootstrap.worlds.world import Document
from ratchet.models.grammar import Calling, Grammar
from ratchet.train.together import ALONE, Together

LONGEST_QUERY = 100
LONGEST_ANSWER = 1000
"""Characters of a tool's answer; the rest is cut off."""
LOOKUP = {
    "name": "lookup",
    "description": "Finds a passage that is not in view yet.",
    "parameters": {
        "type": "object",
        "properties": {"query": {"type": "string", "minLength": 1, "maxLength": LONGEST_QUERY}},
        "required": ["query"],
        "additionalProperties": False,
    },
}
"""A tool as chat templates and OpenAI's servers describe it."""


_NONE: Listed = MappingProxyType({})


class Called(NamedTuple):
    """A call as the model wrote it: the tool's name, and its arguments in JSON."""

    name: str
    arguments: str


class Toolbox:
    """The tools of a run. Of several processes, the first asks them. `described` is what chat templates are
    given, `listed` what was found on servers. Raises ValueError when two tools have the same name."""

    def __init__(
        self, sources: Sequence[Source] = (), *, lookup: bool = True, listed: Listed = _NONE, together: Together = ALONE
    ):
        self._sources, self._together, self.listed = sources, together, listed
        own = [(described, source) for source in sources for described in source.described]
        self.described: tuple[Mapping[str, Any], ...] = (*((LOOKUP,) if lookup else ()), *(d for d, _ in own))
        names = Counter(described["name"] for described in self.described)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"tools: two of them are called {twice[0]}; leave one out of simulate.tools or of `allow`")
        self._source_of = {described["name"]: source for described, source in own}

    def answers(self, asked: Sequence[Asked]) -> list[Answered]:
        """What tools other than `lookup` say to calls, in order, the same in all processes."""

        def ask() -> list[Answered]:
            found: dict[int, Answered] = {}
            for source in self._sources:
                mine = [n for n, one in enumerate(asked) if self._source_of[one.name] is source and one.seconds > 0]
                if mine:
                    found |= dict(zip(mine, source.answers([asked[n] for n in mine]), strict=True))
            said = [found.get(n, Answered("no time is left for tools", 0.0)) for n in range(len(asked))]
            return [Answered(_printable(text)[:LONGEST_ANSWER], seconds) for text, seconds in said]

        return [Answered(*said) for said in self._together.decided("what tools answer", ask)] if asked else []


class Caller:
    """How tools are called in the words of one tokenizer. Raises ValueError when two of them are called alike,
    when arguments cannot be kept to a schema, or when the tokenizer's chat template has no calls."""

    def __init__(self, tools: Sequence[Mapping[str, Any]], tokenizer: Any):
        self._parameters = {tool["name"]: tool["parameters"] for tool in tools}
        self._calling: Calling = tokenizer.calling([*self._parameters])
        self._tokenizer = tokenizer
        self.opening = self._calling.opening
        """The ids that every call begins with."""
        for one, other in itertools.combinations(self._parameters, 2):
            if self._calling.leads[one] == self._calling.leads[other] and self._alike(one, other):
                raise ValueError(
                    f"tools: {one} and {other} may take the same arguments, by which alone this model tells tools "
                    "apart; leave one out"
                )

    @cached_property
    def grammar(self) -> Grammar:
        """What may follow the opening of a call."""
        calls = [(self._calling.leads[name], schema) for name, schema in self._parameters.items()]
        return Grammar.of_calls(calls, self._tokenizer.spelled())

    def read(self, text: str) -> Called:
        """The call that was written after the opening."""
        text = text.lstrip()
        begun = [name for name in self._parameters if text.startswith(self._written(name))]
        lead = max(map(self._written, begun), key=len)
        arguments = text.removeprefix(lead).lstrip()
        named = [name for name in begun if self._written(name) == lead]
        given = set(json.loads(arguments))
        fitting = (n for n in named if self._required(n) <= given <= self._known(n))
        return Called(named[0] if len(named) == 1 else next(fitting), arguments)

    def begun(self, text: str) -> Called | None:
        """The call that a text after the opening begins, with its arguments as far as they have come; None while other
        tools may be meant."""
        text = text.lstrip()
        named = [name for name in self._parameters if text.startswith(self._written(name))]
        calls = [Called(name, text.removeprefix(self._written(name)).lstrip()) for name in named]
        begun = [called for called in calls if called.arguments.startswith("{")]
        return begun[0] if len(begun) == 1 else None

    def write(self, name: str, arguments: Any) -> tuple[Called, tuple[int, ...]] | None:
        """A call as the model itself would write it, and its ids whole; None where no grammar would let it."""
        if name not in self._parameters:
            return None
        schema = self._parameters[name]
        try:
            called = Called(name, _printable(_compact(_as_wanted(arguments, schema, schema))))
        except RecursionError:
            return None
        ids = tuple(self._tokenizer.call(*called))
        said = ids[len(self.opening) : len(ids) - len(self._tokenizer.call_end)]
        return (called, ids) if self.grammar.allows(said) else None

    def _written(self, name: str) -> str:
        """What leads to the arguments of a tool, as it is decoded."""
        parts = self._calling.leads[name]
        return "".join(p if isinstance(p, str) else self._tokenizer.decode([p]) for p in parts).lstrip()

    def _alike(self, one: str, other: str) -> bool:
        """Whether the arguments of a call may be those of either tool."""
        return self._required(one) <= self._known(other) and self._required(other) <= self._known(one)

    def _required(self, name: str) -> set[str]:
        return set(self._parameters[name].get("required", ()))

    def _known(self, name: str) -> set[str]:
        return set(self._parameters[name].get("properties", ()))


def caller(tools: Sequence[Mapping[str, Any]], tokenizer: Any) -> Caller:
    """How these tools are called, which is worked out once. Raises as `Caller` does."""
    return _caller(json.dumps([*tools]), tokenizer)


@functools.lru_cache(maxsize=8)
def _caller(tools: str, tokenizer: Any) -> Caller:
    return Caller(json.loads(tools), tokenizer)


def _as_wanted(value: Any, schema: Any, whole: Mapping[str, Any]) -> Any:
    """JSON as the grammar of a schema wants it: objects have their fields in its order, whole numbers no fraction.
    `whole` is what the schema is part of, and what its references point into."""
    schema = _meant(value, schema, whole)
    if isinstance(value, list):
        return [_as_wanted(one, schema.get("items"), whole) for one in value]
    if isinstance(value, dict):
        known = schema.get("properties", {})
        names = [*(name for name in known if name in value), *(name for name in value if name not in known)]
        other = schema.get("additionalProperties")
        return {name: _as_wanted(value[name], known.get(name, other), whole) for name in names}
    return int(value) if _is_whole(value) and _takes(schema, "integer") else value


def _meant(value: Any, schema: Any, whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema says of a value in the end: what its reference points to, and of several schemas the first that
    has its type and its fields."""
    if not isinstance(schema, Mapping):
        return {}
    if isinstance(to := schema.get("$ref"), str):
        steps = [step.replace("~1", "/").replace("~0", "~") for step in to.removeprefix("#").split("/")[1:]]
        below = lambda part, step: part.get(step) if isinstance(part, Mapping) else None
        return _meant(value, functools.reduce(below, steps, whole), whole)
    several = [_meant(value, one, whole) for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ())]
    return next((one for one in several if _may_be(value, one)), schema)


def _may_be(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether one schema alone has the type and the fields of a value."""
    if isinstance(value, dict):
        fields = schema.get("properties")
        if fields is None or not {*schema.get("required", ())} <= {*value} <= {*fields}:
            return False
        fixed = {name: of["const"] for name, of in fields.items() if isinstance(of, Mapping) and "const" in of}
        return all(value[name] == fixed[name] for name in fixed if name in value)
    kind = "array" if isinstance(value, list) else "integer" if _is_whole(value) else None
    return kind is not None and _takes(schema, kind)


def _takes(schema: Mapping[str, Any], kind: str) -> bool:
    """Whether a schema names this type, alone or among others."""
    named = schema.get("type")
    return kind in named if isinstance(named, list) else kind == named


def _is_whole(value: Any) -> bool:
    """Whether a value is a number like 2.0."""
    return isinstance(value, float) and value.is_integer()


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _printable(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def call_text(query: str) -> str:
    """The arguments of a lookup. The query begins with a space: its first word is then the token it is elsewhere."""
    return _compact({"query": f" {query}"[:LONGEST_QUERY]})


def lookup(
    index: Index, question: str, query: str, shown: Sequence[str], *, relevant: float, repeated: float
) -> Document | None:
    """Finds the best passage for a query asked within a question that tells something new.

    It is none in view, none of whose words more than `repeated` stand in one in view (after maximal marginal relevance,
    Carbonell and Goldstein 1998), and none that scores less than `relevant` of the best, which is about another matter.
    """
    known = [_words(p.text) for p in index.passages if p.id in shown]
    for passage in index.search(query, 8, twice=question, skip=shown, within=relevant):
        words = _words(passage.text)
        if all(len(words & seen) <= repeated * len(words) for seen in known):
            return passage
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))

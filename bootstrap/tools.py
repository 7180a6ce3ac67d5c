"""What a simulating model may call: `lookup`, and the tools of its world.

A call is the arguments in JSON, and what samples it keeps to the tools' schemas. Tools are plain functions: no network,
no files, bounded output.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.worlds.world import Document, Tool
from ratchet.models.grammar import Grammar

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


class Toolbox:
    """The tools of a run. A call says its arguments alone: their names tell which tool is meant."""

    def __init__(self, tools: Sequence[Tool] = ()):
        self._tools = {t.name: t for t in tools}
        own = [{"name": t.name, "description": t.description, "parameters": dict(t.parameters)} for t in tools]
        self.described = (LOOKUP, *own)

    def grammar(self, tokenizer) -> Grammar:
        """What may stand where a call's arguments begin."""
        schemas = [dict(d["parameters"]) for d in self.described]
        return _grammar(json.dumps(schemas[0] if len(schemas) == 1 else {"anyOf": schemas}), tokenizer)

    def name_of(self, arguments: Mapping[str, Any]) -> str:
        """The first tool that takes exactly these arguments."""
        taken = {d["name"]: set(d["parameters"]["properties"]) for d in self.described}
        return next((name for name, known in taken.items() if known == set(arguments)), LOOKUP["name"])

    def run(self, name: str, arguments: Mapping[str, Any]) -> str:
        """What a tool of the world answers."""
        return self._tools[name].run(arguments)[:LONGEST_ANSWER]


@functools.lru_cache(maxsize=8)
def _grammar(schema: str, tokenizer) -> Grammar:
    return Grammar.of_json(json.loads(schema), tokenizer.spelled())


def call_text(query: str) -> str:
    """The arguments of a lookup. The query begins with a space: its first word is then the token it is elsewhere."""
    return json.dumps({"query": f" {query}"[:LONGEST_QUERY]}, separators=(",", ":"), ensure_ascii=False)


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

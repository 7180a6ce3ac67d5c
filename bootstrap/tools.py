"""What a simulating model may call. Tools are plain functions: no network, no files, bounded output.

A call is the arguments in JSON, and what samples it keeps to the tool's schema.
"""

import functools
import json
import re
from collections.abc import Sequence

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.transcript import Document
from ratchet.models.grammar import Grammar
from ratchet.models.tokenizer import Tokenizer

LONGEST_QUERY = 100
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

REPEATED = 0.5
"""A passage that shares more than this of its words with one in view tells nothing new."""
RELEVANT = 0.7
"""A passage that scores less than this share of the best one, in view or not, is about another matter."""


@functools.lru_cache(maxsize=8)
def call_grammar(tokenizer: Tokenizer) -> Grammar:
    """What may follow the call symbol."""
    return Grammar.of_json(LOOKUP["parameters"], tokenizer.spelled())


def call_text(query: str) -> str:
    """The arguments of a lookup. The query begins with a space: its first word is then the token it is elsewhere."""
    return json.dumps({"query": f" {query}"[:LONGEST_QUERY]}, separators=(",", ":"), ensure_ascii=False)


def lookup(index: Index, question: str, query: str, shown: Sequence[str]) -> Document | None:
    """The best passage for a query asked within a question that tells something new: none in view, none that mostly
    repeats one (after maximal marginal relevance, Carbonell and Goldstein 1998), and nothing rather than another
    matter."""
    told = [_words(p.text) for p in index.passages if p.id in shown]
    for passage in index.search(f"{question} {question} {query}", 8, skip=shown, within=RELEVANT):
        words = _words(passage.text)
        if all(len(words & seen) <= REPEATED * len(words) for seen in told):
            return passage
    return None


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))

"""Look-ups, the tools of a world, and what a call may say."""

import json
from collections.abc import Mapping

import pytest
from llguidance import LLMatcher

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.tools import LONGEST_ANSWER, LONGEST_QUERY, LOOKUP, Toolbox, call_text, lookup
from ratchet.bootstrap.worlds.world import Document, Tool

LIMITS = {"relevant": 0.7, "repeated": 0.5}


def test_a_lookup_never_shows_the_same_passage_again():
    index = Index([Document("a", "red lamp, roof leaks."), Document("b", "red lamp at noon.")])
    first = lookup(index, "the mill fails.", "red lamp", [], **LIMITS)
    second = lookup(index, "the mill fails.", "red lamp", [first.id], **LIMITS)
    assert {first.id, second.id} == {"a", "b"}
    assert lookup(index, "?", "red lamp", ["a", "b"], **LIMITS) is None


def test_a_lookup_finds_what_is_new_and_of_the_same_matter():
    texts = {
        "shown": "mill bell: ida heard red lamp, road warms.",
        "again": "mill bell news: road warms after red lamp.",
        "elsewhere": "our quarry horn. i saw red lamp: floor heals.",
        "new": "mill bell. why herd sings? blue lamp!",
    }
    index = Index([Document(i, text) for i, text in texts.items()])
    question = "the mill bell rings. red lamp or blue lamp?"
    found = lambda query, shown, **limits: lookup(index, question, query, shown, **LIMITS | limits)
    assert found("blue lamp", ["shown"]).id == "new"
    assert found("red lamp", ["shown"]).id == "new", "another repeats what is in view"
    assert found("red lamp", ["shown", "new"]) is None, "the others repeat, or are of another place"
    assert found("red lamp", ["shown", "new"], relevant=0.1, repeated=1.0).id == "again"
    assert found("red lamp", ["shown", "new"], relevant=0.1).id == "elsewhere"


def test_a_call_begins_its_query_with_a_space_and_stays_within_the_schema():
    assert json.loads(call_text('the "red" lamp é')) == {"query": ' the "red" lamp é'}
    assert len(json.loads(call_text("x" * 500))["query"]) == LONGEST_QUERY


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    """Beside `lookup`, two tools that take other arguments."""
    of = lambda *names: {
        "type": "object",
        "properties": {name: {"type": "integer"} for name in names},
        "required": [*names],
        "additionalProperties": False,
    }
    add = lambda arguments: str(arguments["a"] + arguments["b"])
    shout = lambda arguments: "ha" * arguments["times"]
    return Toolbox([Tool("add", "Adds.", of("a", "b"), add), Tool("shout", "Shouts.", of("times"), shout)])


def test_tools_are_described_as_chat_templates_take_them(toolbox):
    assert [d["name"] for d in toolbox.described] == ["lookup", "add", "shout"]
    assert Toolbox().described == (LOOKUP,)
    for described in toolbox.described:
        assert described["description"] and isinstance(described["parameters"], Mapping)
        assert json.loads(json.dumps(described)) == described


def test_the_names_of_its_arguments_tell_which_tool_is_called(toolbox):
    assert [toolbox.name_of(a) for a in ({"b": 1, "a": 2}, {"times": 3}, {"query": "x"})] == ["add", "shout", "lookup"]
    assert toolbox.name_of({"a": 1}) == toolbox.name_of({}) == "lookup"


def test_a_tool_answers_and_its_answer_is_cut(toolbox):
    assert toolbox.run("add", {"a": 2, "b": 40}) == "42"
    assert toolbox.run("shout", {"times": 2 * LONGEST_ANSWER}) == "ha" * (LONGEST_ANSWER // 2)


@pytest.mark.parametrize(
    ("arguments", "alone", "with_tools"),
    [
        ('{"query":" red lamp"}', True, True),
        ('{"query":""}', False, False),
        ('{"query":"x","more":1}', False, False),
        ('{"a":1,"b":-20}', False, True),
        ('{"a":1}', False, False),
        ('{"times":"x"}', False, False),
        ("{}", False, False),
    ],
)
def test_the_grammar_of_a_call_holds_the_schemas_of_all_tools(tokenizer, toolbox, arguments, alone, with_tools):
    for box, allowed in ((Toolbox(), alone), (toolbox, with_tools)):
        matcher: LLMatcher = box.grammar(tokenizer).start.deep_copy()
        tokens = tokenizer.encode(arguments)
        assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) == allowed

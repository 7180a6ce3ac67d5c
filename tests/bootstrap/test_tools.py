"""Look-ups, the tools of a world, and what a call may say."""

import json
from collections.abc import Mapping
from types import SimpleNamespace

import pytest
from llguidance import LLMatcher
from templates import TEMPLATES, TOOLLESS, write_folder

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.toolkit.source import Asked, Functions
from ratchet.bootstrap.tools import LONGEST_ANSWER, LONGEST_QUERY, LOOKUP, Caller, Toolbox, call_text, lookup
from ratchet.bootstrap.worlds.world import Document, Tool
from ratchet.models.chat import ChatTokenizer

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


INTEGER = {"type": "integer"}


def taking(**properties) -> dict:
    """A schema of just these arguments."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


ADD = Tool("add", "Adds.", taking(a=INTEGER, b=INTEGER), lambda arguments: str(arguments["a"] + arguments["b"]))
SHOUT = Tool("shout", "Shouts.", taking(times=INTEGER), lambda arguments: "ha" * arguments["times"])
SUBTRACT = ADD._replace(name="subtract")


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    """Beside `lookup`, two tools that take other arguments."""
    return Toolbox([Functions([ADD]), Functions([SHOUT])])


def test_tools_are_described_as_chat_templates_take_them(toolbox):
    assert [d["name"] for d in toolbox.described] == ["lookup", "add", "shout"]
    assert Toolbox().described == (LOOKUP,) and Toolbox(lookup=False).described == ()
    for described in toolbox.described:
        assert described["description"] and isinstance(described["parameters"], Mapping)
        assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("kind", [kind for kind in TEMPLATES if kind not in TOOLLESS])
def test_a_call_that_has_begun_is_known_by_its_tool_and_shows_what_it_has_of_its_arguments(kind, tmp_path):
    """Of tools the name of one of which begins that of the other."""
    tokenizer = ChatTokenizer.load(write_folder(tmp_path, kind))
    of = Caller([{"name": name, "parameters": taking(a=INTEGER)} for name in ("look", "look-up")], tokenizer)
    for name in ("look", "look-up"):
        ids, arguments = tokenizer.call(name, '{"a":7}'), '{"a":7}'
        text = tokenizer.decode(ids[len(of.opening) : -len(tokenizer.call_end)])
        begun = [of.begun(text[:size]) for size in range(len(text) + 1)]
        before = [called for called in begun if called is None]
        assert begun == [*before, *((name, arguments[:size]) for size in range(1, len(arguments) + 1))]
        assert of.read(text) == begun[-1]


def test_two_tools_of_one_name_are_refused_in_a_line():
    for sources in ([Functions([ADD]), Functions([ADD])], [Functions([ADD._replace(name="lookup")])]):
        with pytest.raises(ValueError, match=r"two of them are called (add|lookup); leave one out") as caught:
            Toolbox(sources)
        assert "\n" not in str(caught.value)


def asked(*calls, seconds: float = 9.0) -> list[Asked]:
    return [Asked(name, arguments, seconds) for name, arguments in calls]


def test_tools_answer_in_order_and_answers_are_cut(toolbox):
    calls = asked(("shout", {"times": 2 * LONGEST_ANSWER}), ("add", {"a": 2, "b": 40}), ("shout", {"times": 1}))
    assert [said.text for said in toolbox.answers(calls)] == ["ha" * (LONGEST_ANSWER // 2), "42", "ha"]
    assert toolbox.answers([]) == []


def test_whoever_has_no_time_left_is_told_so_and_no_tool_is_asked(toolbox):
    never = Tool("never", "Fails.", taking(), lambda arguments: 1 / 0)
    (said,) = Toolbox([Functions([never])]).answers(asked(("never", {}), seconds=0.0))
    assert said == ("no time is left for tools", 0.0)


def test_what_cannot_be_written_down_is_replaced():
    odd = Tool("odd", "Says half a letter.", taking(), lambda arguments: "so \ud800.")
    (said,) = Toolbox([Functions([odd])]).answers(asked(("odd", {})))
    assert said.text == "so ?." and said.text.encode()


def test_of_several_processes_the_first_asks_and_all_are_told():
    """Both make the same calls; only one of them may be heard by the tool."""
    said, heard = [], []
    song = lambda arguments: heard.append(arguments) or f"la {len(heard)}"
    sing = Tool("sing", "Sings.", taking(times=INTEGER), song)
    first = SimpleNamespace(decided=lambda what, decide: said.append(json.dumps(decide())) or json.loads(said[-1]))
    other = SimpleNamespace(decided=lambda what, decide: json.loads(said[-1]))
    calls = asked(("sing", {"times": 1}), ("sing", {"times": 1}))
    answers = [Toolbox([Functions([sing])], together=one).answers(calls) for one in (first, other)]
    assert answers[0] == answers[1] and [a.text for a in answers[0]] == ["la 1", "la 2"] and len(heard) == 2


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
        assert allows(Caller(box.described, tokenizer), tokenizer.encode(arguments)) == allowed


def allows(caller: Caller, tokens: list[int]) -> bool:
    """Whether a model may write this after the opening of a call, and end there."""
    matcher: LLMatcher = caller.grammar.start.deep_copy()
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_where_calls_have_no_names_their_arguments_tell_which_tool_is_meant(tokenizer, toolbox):
    caller = Caller(toolbox.described, tokenizer)
    assert caller.read(' {"b":1,"a":2}') == ("add", '{"b":1,"a":2}')
    assert [caller.read(text).name for text in ('{"times":3}', '{"query":" x"}')] == ["shout", "lookup"]
    with pytest.raises(ValueError, match="add and subtract may take the same arguments, by which alone") as caught:
        Caller(Toolbox([Functions([ADD, SUBTRACT])]).described, tokenizer)
    assert "\n" not in str(caught.value)
    open_ended = SHOUT._replace(name="list", parameters={"type": "object", "properties": {"a": INTEGER, "b": INTEGER}})
    with pytest.raises(ValueError, match="add and list may take the same arguments"):
        Caller(Toolbox([Functions([ADD, open_ended])]).described, tokenizer)


@pytest.mark.parametrize("spaces", ["", "always", "first", "never", "prepend"])
@pytest.mark.parametrize("kind", sorted(set(TEMPLATES) - set(TOOLLESS)))
def test_a_chat_model_calls_a_tool_by_its_name(tmp_path, kind, spaces):
    """Whatever the template's calls look like, and however the tokenizer puts spaces, each tool can be called and no
    other name can be written."""
    tokenizer = ChatTokenizer.load(write_folder(tmp_path, kind, metaspace=spaces))
    box = Toolbox([Functions([ADD, SUBTRACT])])
    caller = Caller(box.described, tokenizer)
    for name, arguments in (("add", '{"a":1,"b":2}'), ("subtract", '{"a":1,"b":2}'), ("lookup", '{"query":" x"}')):
        written = tokenizer.call(name, arguments)
        assert tuple(written[: len(caller.opening)]) == caller.opening and caller.opening[0] == tokenizer.calls(name)[0]
        rest = written[len(caller.opening) : len(written) - len(tokenizer.call_end)]
        assert allows(caller, rest) and caller.read(tokenizer.decode(rest)) == (name, arguments)
        assert caller.write(name, json.loads(arguments)) == ((name, arguments), tuple(written))
    for name, arguments in (("erase", '{"a":1,"b":2}'), ("add", '{"query":" x"}'), ("lookup", '{"a":1,"b":2}')):
        assert not allows(caller, tokenizer.call(name, arguments)[len(caller.opening) : -len(tokenizer.call_end)])
        assert caller.write(name, json.loads(arguments)) is None


def test_one_tool_alone_is_called_without_a_choice(tmp_path):
    tokenizer = ChatTokenizer.load(write_folder(tmp_path, "qwen"))
    assert Caller([LOOKUP], tokenizer).opening == tokenizer.calls("lookup")


POINT = taking(x=INTEGER, y=INTEGER)
NAMED = taking(name={"type": "string"}, at={"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]})
PLACE = taking(
    place={"anyOf": [{"$ref": "#/$defs/point"}, {"$ref": "#/$defs/named"}]},
    path={"type": "array", "items": {"allOf": [{"$ref": "#/$defs/point"}]}},
    share={"anyOf": [{"type": "number"}, {"type": "null"}]},
)
MOVE = {"anyOf": [
    taking(kind={"const": "walk"}, steps={"type": ["integer", "null"]}),
    taking(steps={"type": ["integer", "null"]}, kind={"const": "run"}),
]}  # fmt: skip


def test_a_choice_is_told_by_its_constants(tmp_path):
    tokenizer = ChatTokenizer.load(write_folder(tmp_path, "qwen"))
    caller = Caller([{"name": "go", "parameters": taking(move=MOVE)}], tokenizer)
    for kind, written in (("walk", '{"kind":"walk","steps":2}'), ("run", '{"steps":2,"kind":"run"}')):
        called, _ = caller.write("go", {"move": {"steps": 2.0, "kind": kind}})
        assert called.arguments == f'{{"move":{written}}}'


@pytest.mark.parametrize(("asked", "written"), [
    ({"share": 2.5, "path": [], "place": {"y": 2.0, "x": 1}}, '{"place":{"x":1,"y":2},"path":[],"share":2.5}'),
    ({"place": {"at": {"y": 4, "x": 3.0}, "name": "a"}, "path": [{"y": 6, "x": 5}], "share": None},
     '{"place":{"name":"a","at":{"x":3,"y":4}},"path":[{"x":5,"y":6}],"share":null}'),
    ({"place": {"at": None, "name": "a"}, "path": [], "share": 1.0},
     '{"place":{"name":"a","at":null},"path":[],"share":1.0}'),
])  # fmt: skip
def test_a_call_of_another_order_is_written_as_references_and_choices_of_its_schema_want_it(tmp_path, asked, written):
    """Schemas that Python's servers of tools describe are full of both."""
    schema = PLACE | {"$defs": {"point": POINT, "named": NAMED}}
    caller = Caller([{"name": "go", "parameters": schema}], ChatTokenizer.load(write_folder(tmp_path, "qwen")))
    called, _ = caller.write("go", asked)
    assert called.arguments == written

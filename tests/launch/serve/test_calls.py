"""Tools as clients of the server meet them: OpenAI's own client, and the loop with a served model as its teacher."""

import asyncio
import contextlib
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal, NamedTuple

import openai
import pydantic
import pytest
from etils import epath
from serving import ANSWER, of_folder, write_folder, write_speaker
from support import changed

from ratchet.bootstrap.config import Config, with_settings
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.toolkit.offered import toolbox
from ratchet.launch.serve.asked import Refused
from ratchet.launch.serve.desk import Desk, Turn
from ratchet.launch.serve.listening import answering
from ratchet.models.draw import Warp
from ratchet.models.rounds import Asked
from ratchet.models.sampler import Request


class Look(pydantic.BaseModel, extra="forbid"):
    """Looks at a place."""

    at: Literal["the roof", "the mill"]


class Add(pydantic.BaseModel, extra="forbid"):
    """Adds numbers."""

    numbers: list[Annotated[int, pydantic.Field(ge=0, le=9)]] = pydantic.Field(max_length=3)
    aloud: bool


KINDS = {"look": Look, "add": Add}
TOOLS = [openai.pydantic_function_tool(kind, name=name) for name, kind in KINDS.items()]
USER = {"role": "user", "content": "what is it"}
SAYS = {"qwen": "it is so", "llama": "", "mistral": "", "deepseek": ""}
"""What a model of each kind of template says before it opens a call. A text opens those of the second, symbols the
others."""


class Speaker(NamedTuple):
    """A served model, and OpenAI's client to ask it by."""

    client: openai.OpenAI
    name: str

    def asks(self, **more):
        return {"model": self.name, "messages": [USER], "tools": TOOLS, "max_tokens": 120} | more

    def __call__(self, **more):
        return self.client.chat.completions.create(**self.asks(**more))


@contextlib.contextmanager
def speaking(folder):
    with (
        answering(of_folder(folder)) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Speaker(client, folder.name)


@pytest.fixture(scope="module", params=SAYS)
def caller(request, tmp_path_factory):
    """A model that calls of its own accord, and what it says before."""
    with speaking(write_speaker(tmp_path_factory.mktemp("caller"), request.param, SAYS[request.param])) as speaker:
        yield speaker, SAYS[request.param] or None


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A model that never calls of its own accord, and begins to answer as if it did."""
    with speaking(write_speaker(tmp_path_factory.mktemp("talker"), "llama", '{"name', calls=False)) as speaker:
        yield speaker


def check(call) -> None:
    """Whether a call is one of `TOOLS`."""
    assert call.type == "function" and call.id.isalnum() and len(call.id) == 9
    KINDS[call.function.name].model_validate_json(call.function.arguments, strict=True)


@pytest.mark.parametrize("seed", range(2))
def test_a_call_is_of_what_is_offered_and_a_stream_brings_the_same(caller, seed):
    ask, says = caller
    whole = ask(seed=seed)
    (call,), message = whole.choices[0].message.tool_calls, whole.choices[0].message
    check(call)
    assert (message.content, whole.choices[0].finish_reason) == (says, "tool_calls")
    assert whole.usage.completion_tokens <= 120
    with ask.client.chat.completions.stream(**ask.asks(seed=seed), stream_options={"include_usage": True}) as events:
        streamed = events.until_done().get_final_completion()
    (same,), message = streamed.choices[0].message.tool_calls, streamed.choices[0].message
    assert (same.function.name, same.function.arguments) == (call.function.name, call.function.arguments)
    assert isinstance(same.function.parsed_arguments, KINDS[call.function.name])
    assert (message.content, streamed.choices[0].finish_reason) == (says, "tool_calls")
    assert streamed.usage == whole.usage


def test_a_streams_call_comes_in_parts_of_which_the_first_names_it(caller):
    ask, says = caller
    deltas = [event.choices[0] for event in ask(seed=1, stream=True, logprobs=True)]
    calls = [call for choice in deltas for call in choice.delta.tool_calls or ()]
    assert len(calls) > 1 and {call.index for call in calls} == {0}
    assert calls[0].id and calls[0].type and calls[0].function.name in KINDS
    assert {(call.id, call.type, call.function.name) for call in calls[1:]} == {(None, None, None)}
    assert deltas[0].delta.role == "assistant" and deltas[-1].finish_reason == "tool_calls"
    assert "".join(choice.delta.content or "" for choice in deltas) == (says or "")
    spelled = "".join(one.token for choice in deltas for one in choice.logprobs.content)
    assert spelled.strip() == (says or ""), "log-probabilities are those of the text"


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", {*KINDS}), *(({"type": "function", "function": {"name": name}}, {name}) for name in KINDS)],
)
def test_who_must_call_does_and_says_nothing_before(caller, choice, names):
    ask, _ = caller
    made = ask(tool_choice=choice, n=3, seed=1)
    for one in made.choices:
        check(one.message.tool_calls[0])
        assert one.message.tool_calls[0].function.name in names
        assert (one.message.content, one.finish_reason, len(one.message.tool_calls)) == (None, "tool_calls", 1)
    assert len({one.message.tool_calls[0].id for one in made.choices}) == 3


def test_one_that_would_not_call_answers_or_must(talker):
    """What it says begins as a call does, and is told once it is known to be none."""
    for more in ({}, {"tool_choice": "none"}, {"parallel_tool_calls": False}, {"tools": []}):
        choice = talker(**more).choices[0]
        assert (choice.message.content, choice.message.tool_calls) == ('{"name', None)
        assert choice.finish_reason == "stop"
    for stream in (talker(stream=True, logprobs=True), talker(stream=True, tools=[], logprobs=True)):
        deltas = [event.choices[0] for event in stream]
        assert "".join(choice.delta.content or "" for choice in deltas) == '{"name'
        assert "".join(one.token for choice in deltas for one in choice.logprobs.content).startswith('{"name')
    (call,) = talker(tool_choice="required").choices[0].message.tool_calls
    check(call)


def test_none_may_be_called_where_a_chat_says_so(caller):
    ask, _ = caller
    made = ask(tool_choice="none", max_tokens=8).choices[0]
    assert made.message.tool_calls is None and made.finish_reason == "length"


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    """A model that calls, and answers once a tool has."""
    with speaking(write_speaker(tmp_path_factory.mktemp("mistral"), "mistral")) as speaker:
        yield speaker


def test_an_answer_goes_on_from_what_a_tool_said(mistral):
    called = mistral().choices[0].message
    told = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "it leaks"}
    made = mistral(messages=[USER, called, told])
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (ANSWER, "stop")
    assert made.choices[0].message.tool_calls is None
    tokens = mistral.client.post(
        "/tokenize", body={"messages": [USER, called.to_dict(), told], "tools": TOOLS}, cast_to=dict[str, object]
    )
    assert tokens["count"] == made.usage.prompt_tokens
    assert made.usage.prompt_tokens > mistral(messages=[USER], tools=[], max_tokens=1).usage.prompt_tokens


def test_a_call_that_is_cut_off_ends_by_its_length(mistral):
    whole = mistral(seed=2)
    call, room = whole.choices[0].message.tool_calls[0].function, whole.usage.completion_tokens
    cut = lambda longest: mistral(seed=2, max_tokens=longest).choices[0]
    assert cut(room).finish_reason == "tool_calls"
    begun = cut(room - 1)
    assert begun.finish_reason == "length" and begun.message.tool_calls[0].function.name == call.name
    shorter = cut(room - 3)
    assert call.arguments.startswith(shorter.message.tool_calls[0].function.arguments)
    assert shorter.message.tool_calls[0].function.arguments != call.arguments
    for longest in (1, 2, 6):
        unnamed = cut(longest)
        assert (unnamed.finish_reason, unnamed.message.tool_calls) == ("length", None)
    assert mistral(seed=2, max_tokens=4, tool_choice="required").choices[0].finish_reason == "length"


def test_calls_and_other_answers_at_once_are_what_each_is_alone(mistral):
    """Of more clients than there are slots; those that call wait for a round of their own."""
    told = {"role": "tool", "tool_call_id": "call00000", "content": "it leaks"}
    calls = [{"id": "call00000", "type": "function", "function": {"name": "look", "arguments": '{"at":"the roof"}'}}]
    answers = {"messages": [USER, {"role": "assistant", "tool_calls": calls}, told]}
    asked = [{"seed": seed} | (answers if seed % 2 else {}) for seed in range(6)]

    def said(more):
        choice = mistral(**more).choices[0]
        called = [call.function.to_dict() for call in choice.message.tool_calls or ()]
        return choice.message.content, called, choice.finish_reason

    alone = [said(more) for more in asked]
    with ThreadPoolExecutor(6) as pool:
        assert [*pool.map(said, asked)] == alone
    assert {content for content, *_ in alone} == {None, ANSWER}


def test_both_requests_of_an_answer_that_calls_are_of_one_turn(mistral, monkeypatch):
    say, turns = Desk.say, []

    def heard(desk, asked, turn=None):
        turns.append(turn)
        return say(desk, asked, turn)

    monkeypatch.setattr(Desk, "say", heard)
    check(mistral().choices[0].message.tool_calls[0])
    assert len(turns) == 2 and turns[0] is turns[1] is not None


def tool(name="look", **more):
    return {"type": "function", "function": {"name": name, **more}}


OBJECT = {"type": "object", "properties": {}}
DEEP = {"type": "object"}
for _ in range(400):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": OBJECT}}


def _called(call):
    return {"messages": [USER, {"role": "assistant", "tool_calls": [call]}]}


WRONG = [
    ({"tools": [tool(parameters={"type": "object", "properties": {"a": {"type": "no such type"}}})]}, "tools", "look"),
    ({"tools": [tool("add"), tool(parameters=OBJECT | {"properties": {"a": {"$ref": "#/b"}}})]}, "tools", "look"),
    ({"tools": [tool(parameters={"type": "array"})]}, "tools", "look: its parameters are no JSON schema of an object"),
    ({"tools": [tool(parameters="text")]}, "tools", "look: its parameters are no JSON schema of an object"),
    ({"tools": [tool(parameters=DEEP)]}, "tools", "look"),
    ({"tools": [tool("a b")]}, "tools", "'a b' is no name of a tool"),
    ({"tools": [tool("")]}, "tools", "'' is no name of a tool"),
    ({"tools": [tool("x" * 65)]}, "tools", "is no name of a tool"),
    ({"tools": [tool(), tool()]}, "tools", "two are called look"),
    ({"tools": [tool(str(n)) for n in range(129)]}, "tools", "at most 128"),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "tools", "function"),
    ({"tools": [tool(inputs={})]}, "tools", "unknown parameter tools.0.function.inputs"),
    ({"tools": [tool(description="what " * 3000)]}, "messages", "maximum context length"),
    ({"tool_choice": "any"}, "tool_choice", "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "see"}}}, "tool_choice", "a call of none of the tools"),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "a call of none of the tools"),
    ({"response_format": FORM}, "response_format", "what may call tools keeps to no form"),
    (_called({"id": "short", "function": {"name": "look", "arguments": "{}"}}), "messages", "nine"),
    (_called({"id": "short", "function": {}}), "messages", "messages.1.tool_calls.0.function.name: Field required"),
    ({"messages": [USER, {"role": "assistant", "tool_calls": 7}]}, "messages", "messages.1.tool_calls: Input should"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "said"), WRONG)
def test_a_mistake_is_told_in_a_line_that_names_the_tool(mistral, change, param, said):
    with pytest.raises(openai.BadRequestError) as refused:
        mistral(**change)
    message = refused.value.body["message"]
    assert refused.value.body["param"] == param and said in message and "\n" not in message and len(message) < 400


def test_a_tool_takes_nothing_where_it_says_nothing_and_an_object_where_it_says_no_type(mistral):
    ask = lambda of: mistral(tools=[of], tool_choice="required").choices[0].message.tool_calls[0].function.arguments
    assert ask(tool()) == ask(tool(description="Looks.", strict=None)) == "{}"
    of = {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}
    assert ask(tool(parameters=of)) == '{"a":1}'
    assert ask(tool(parameters={"$schema": "http://json-schema.org/draft-07/schema#", **of})) == '{"a":1}'


def test_models_whose_templates_know_no_tools_say_so(tmp_path):
    (tmp_path / "plain").mkdir()
    with speaking(write_folder(tmp_path / "plain")) as ask, pytest.raises(openai.BadRequestError) as refused:
        ask()
    assert refused.value.body["code"] == "unsupported_parameter"
    assert "plain calls none: it was trained from scratch, or its chat template" in refused.value.body["message"]


def test_a_call_is_made_by_the_weights_that_began_its_answer_or_by_none(tmp_path):
    model = of_folder(write_speaker(tmp_path, "mistral"))
    asked = Asked(Request(1, (5, 6)), 1, 2, Warp(0.0))

    async def say(desk, turn):
        return [part async for part in desk.say(asked, turn)]

    async def change_within(desk):
        turn = Turn()
        first = await say(desk, turn), await say(desk, turn)
        await desk.change(model.weights)
        with pytest.raises(Refused, match="weights were changed within this answer; ask again") as late:
            await say(desk, turn)
        return *first, await say(desk, Turn()), late.value.status

    with Desk(model) as desk:
        *answers, status = asyncio.run(change_within(desk))
    assert all(parts[-1].ended for parts in answers) and status == 503


def test_a_served_model_writes_for_a_run_and_calls_the_runs_tools(little_run, tmp_path):
    """From the probe, which finds that it calls tools, to transcripts that hold the calls and what came of them."""
    tools = toolbox(with_settings(Config(), {"simulate.tools": ["lookup", "calculate"]}).simulate, ())
    few = {"simulate__samples": 2, "simulate__unit_tasks": 1, "simulate__calls": 1, "simulate__passages": 1}
    few |= {"simulate__new_tokens": 120, "targets__kind": "one_hot"}
    with answering(of_folder(write_speaker(tmp_path / "teacher", "mistral"))) as address:
        config = changed(little_run.config, teacher__url=f"{address}/v1", **few)
        run = dataclasses.replace(little_run, directory=epath.Path(tmp_path) / "run", config=config, tools=tools)
        tasks = run.tasks(1)
        g = Generation(run, 1, 0, None, None, tasks, {t.id: t for t in tasks})
        g.__dict__["writer"] = dataclasses.replace(run.writer(None), max_length=4000)
        made = [t for unit in transcripts.simulate(g) for t in unit]
    assert json.loads((run.directory / "teacher" / "probe.json").read_text())["tools"] is True
    assert len(made) == 2 * len(tasks) and all(t.finished and t.text == ANSWER for t in made)
    called = [name for t in made for name, _ in t.calls]
    assert len(called) == len(made) and {*called} <= {"lookup", "calculate"}

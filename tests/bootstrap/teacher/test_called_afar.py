"""A teacher by address that calls tools: what comes of it is what would come of the run's own model."""

import dataclasses
import itertools
import json
from collections import Counter

import pytest
from etils import epath
from faulty import Faulty
from support import changed, saying

from ratchet.bootstrap import simulate
from ratchet.bootstrap.config import Config, with_settings
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.report.transcript import called
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.teacher.client import ServerRefused, ServerStopped
from ratchet.bootstrap.toolkit.offered import toolbox
from ratchet.bootstrap.toolkit.source import Answered
from ratchet.bootstrap.tools import Toolbox, caller
from ratchet.bootstrap.transcript import to_json, transcript_from_json

TOOLS = toolbox(with_settings(Config(), {"simulate.tools": ["lookup", "calculate"]}).simulate, ())
SUM, LOOKED = ("calculate", {"expression": "6*8"}), ("lookup", {"query": "the lamp"})
SAYS = "it is so."


def call(name, arguments):
    """A message that calls a tool; arguments that are text stand as they are."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"tool_calls": [{"id": "theirs", "type": "function", "function": {"name": name, "arguments": text}}]}


class Curious:
    """A server's model that makes these calls one by one, and then answers; `asked` are the questions of a run."""

    def __init__(self, *calls):
        self.calls, self.asked = calls, []

    def __call__(self, body):
        if "Call the tool choose" in str(body["messages"]):
            return "chosen" if body["tool_choice"] == "none" else call("choose", {"fit": "yes"})
        if "tools" not in body:
            return "one"
        self.asked.append(body)
        made = sum(message["role"] == "tool" for message in body["messages"])
        return call(*self.calls[made]) if made < len(self.calls) else SAYS


@pytest.fixture
def generation(little_run, tmp_path):
    """A generation that a server at an address writes, with tools at hand."""

    def make(address, place="run", tools=TOOLS, **changes):
        few = {"simulate__samples": 1, "simulate__unit_tasks": 1, "simulate__calls": 2, "simulate__passages": 1}
        settings = {**few, "targets__kind": "one_hot", "teacher__url": address, "teacher__concurrency": 1}
        config = changed(little_run.config, **settings | changes)
        run = dataclasses.replace(little_run, directory=epath.Path(tmp_path) / place, config=config, tools=tools)
        tasks = run.tasks(1)
        g = Generation(run, 1, 0, None, None, tasks, {t.id: t for t in tasks})
        g.__dict__["writer"] = dataclasses.replace(run.writer(None), max_length=4000)
        return g

    return make


def written(g) -> list:
    """Its transcripts, as they are read back."""
    return [transcript_from_json(to_json(t)) for unit in transcripts.simulate(g) for t in unit]


def by_its_own_model(g, *turns: str):
    """What the run's own model makes of the same drafts when its turns are these calls, in JSON, and then an answer."""
    (ended,) = saying(g.writer, SAYS).sampler(None, [0])
    begins = dataclasses.replace(ended, tokens=ended.tokens[:0], stop=g.writer.caller.opening[0])
    said = [one for turn in turns for one in (begins, *saying(g.writer, turn).sampler(None, [0]))]
    left = itertools.cycle([*said, ended])
    own = dataclasses.replace(g.writer, sampler=lambda params, requests, **_: [next(left) for _ in requests])
    drafts = [simulate.draft(g.writer, g.index, t, 0, f"{g.run.config.seed} 1") for t in g.tasks]
    return [simulate.finish(own, g.index, [d], generation=1, seed=0)[0] for d in drafts]


def test_calls_and_answers_stand_as_those_of_the_runs_own_model(generation):
    curious, done = Curious(SUM, LOOKED), []
    with Faulty(curious).serving() as address:
        g = generation(address)
        made = written(g)
        drafts = [simulate.draft(g.writer, g.index, t, 0, "again") for t in g.tasks]
        g.teacher.finish(drafts, g.passages, generation=1, seed=0, advance=done.append)
    own = by_its_own_model(g, '{"expression":"6*8"}', '{"query":"the lamp"}')
    form = lambda t: (t.prompt, t.called, t.messages, t.calls, t.passages, t.tokens, t.text, t.finished, t.id)
    assert [form(t) for t in made] == [form(transcript_from_json(to_json(t))) for t in own] and len(made) == 2
    assert made[0].calls == (SUM, LOOKED) and made[0].finished and made[0].text == SAYS
    assert called(made[0].messages)[:2] == ['calculate {"expression":"6*8"}', "→ 48"]
    assert sum(done) == len(drafts)


def test_it_is_asked_by_the_words_of_a_chat_and_may_call_so_often_and_no_more(generation):
    curious = Curious(SUM, LOOKED, SUM)
    with Faulty(curious).serving() as address:
        made = written(generation(address))
    assert [body["tool_choice"] for body in curious.asked] == ["auto", "auto", "none"] * 2
    first, second, third = curious.asked[:3]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["lookup", "calculate"] and first["seed"]
    assert first["messages"] == second["messages"][:-2] == third["messages"][:-4]
    asks, tells = second["messages"][-2:]
    assert asks["role"] == "assistant" and asks["content"] == "" and tells["content"] == "48"
    assert asks["tool_calls"][0]["id"] == tells["tool_call_id"] and tells["role"] == "tool"
    assert [(t.finished, t.text) for t in made] == [(False, "(call) ")] * 2, "the third call is one too many"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("browse", {"url": "x"}), ("calculate", {}), ("calculate", {"expression": "1", "more": 2}),
        ("calculate", {"expression": 7}), ("calculate", '{"expression": "6*'), ("calculate", "[1]"),
        ("calculate", "null"), ("calculate", {"expression": ""}), ("lookup", {"query": "x" * 101}),
        ("calculate", "[" * 900 + "]" * 900), ("calculate", '{"expression": NaN}'), ("", {}),
    ],
)  # fmt: skip
def test_a_call_that_nobody_allowed_asks_no_tool_and_is_no_answer(generation, name, arguments):
    with Faulty(Curious((name, arguments))).serving() as address:
        made = written(generation(address))
    assert [(t.finished, t.calls, t.text) for t in made] == [(False, (), "(call) ")] * 2


def test_a_call_where_nothing_is_offered_is_no_answer(generation):
    with Faulty(lambda body: call(*SUM)).serving() as address:
        made = written(generation(address, simulate__calls=0))
    assert [(t.finished, t.calls, t.text) for t in made] == [(False, (), "")] * 2


def test_what_is_no_text_is_put_into_tokens_all_the_same(generation):
    with Faulty(Curious(("calculate", '{"expression": "\\ud800"}'))).serving() as address:
        (made, _) = written(generation(address))
    assert made.calls == (("calculate", {"expression": "?"}),) and made.finished
    with Faulty(lambda body: f"{SAYS} \ud800").serving() as address:
        assert written(generation(address, "other", simulate__calls=0))[0].text == f"{SAYS} ?"


def test_fields_may_come_in_any_order(tokenizer):
    of = {"type": "object", "properties": {"x": {"type": "integer"}, "y": {"type": "string"}}}
    both = {**of, "required": ["x", "y"], "additionalProperties": False}
    schema = {"type": "object", "properties": {"a": both, "b": {"type": "array", "items": both}}}
    tool = {"name": "f", "parameters": {**schema, "required": ["a", "b"], "additionalProperties": False}}
    one = {"y": "s", "x": 1}
    (name, text), ids = caller([tool], tokenizer).write("f", {"b": [one], "a": one})
    assert (name, text) == ("f", '{"a":{"x":1,"y":"s"},"b":[{"x":1,"y":"s"}]}')
    assert list(ids) == tokenizer.call("f", text)


class Slow:
    """A tool that says it took four seconds, and counts how often it is asked what."""

    described = ({"name": "slow", "description": "Waits.", "parameters": {"type": "object", "properties": {}}},)

    def __init__(self):
        self.given = []

    def answers(self, asked):
        self.given += [one.seconds for one in asked]
        return [Answered(f"answer {len(self.given)}", 4.0) for _ in asked]


def test_tools_have_so_many_seconds_together(generation):
    slow = Slow()
    with Faulty(Curious(*[("slow", {})] * 3)).serving() as address:
        changes = {"simulate__calls": 3, "simulate__call_seconds": 7.0}
        made = written(generation(address, tools=Toolbox([slow], lookup=False), **changes))
    assert slow.given == [7.0, 3.0] * 2
    assert [m["content"] for m in made[0].messages if m["role"] == "tool"][2] == "no time is left for tools"


def test_a_run_that_is_cut_off_between_two_turns_asks_and_calls_nothing_again(generation, monkeypatch):
    """What the tool says differs each time; were it called again, the teacher would be asked another question."""
    monkeypatch.setattr("ratchet.bootstrap.teacher.client.ATTEMPTS", 1)
    slow, curious = Slow(), Curious(("slow", {}))
    server = Faulty(curious, {8: "gone"})  # after seven chats of the probe and the first task's call
    box = Toolbox([slow], lookup=False)
    with server.serving() as address:
        with pytest.raises(ServerStopped):
            transcripts.simulate(generation(address, tools=box))
        assert len(slow.given) == 1
        server.gone = False
        made = written(generation(address, tools=box))
    assert len(slow.given) == 2 == len(made) and set(server.paid.values()) == {1}
    assert [[m["content"] for m in t.messages if m["role"] == "tool"] for t in made] == [["answer 1"], ["answer 2"]]
    assert Counter(json.dumps(body, sort_keys=True) for body in curious.asked).most_common(1)[0][1] <= 2


def test_one_that_calls_no_tools_is_refused_where_it_may_and_met_where_it_may_not(generation):
    with Faulty(lambda body: "one").serving() as address:
        with pytest.raises(ServerRefused, match="calls no tools; let .* with --simulate.calls 0") as refused:
            _ = generation(address).run.teacher
        assert "\n" not in str(refused.value)
    with Faulty(Curious()).serving() as address:  # once it was started with what parses calls
        assert generation(address).run.teacher.model == "writer"
    with Faulty(lambda body: "one").serving() as address:
        assert generation(address, "other", simulate__calls=0).run.teacher.model == "writer"

"""The tools of a run: what its settings name, from its beginning to the transcripts."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import pytest
import yaml
from etils import epath
from support import changed, prepared, saying

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, ConfigError, with_settings
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.given import INPUTS
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.report.transcript import called
from ratchet.bootstrap.simulate import Draft, finish
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.toolkit.offered import open_toolbox, toolbox
from ratchet.bootstrap.toolkit.sandbox import Sandbox
from ratchet.bootstrap.toolkit.source import Answered
from ratchet.bootstrap.tools import Toolbox
from ratchet.bootstrap.transcript import Transcript, to_json, transcript_from_json
from ratchet.bootstrap.worlds.arithmetic import CALCULATE as OF_ARITHMETIC
from ratchet.train.together import ALONE

SERVER = [sys.executable, str(Path(__file__).with_name("toolserver.py"))]


def offering(tmp_path, **server) -> str:
    """A file of one server."""
    path = tmp_path / "servers.yaml"
    entry = {"name": "things", "command": SERVER, "allow": ["add"], **server}
    path.write_text(yaml.safe_dump({"version": 1, "servers": [entry]}))
    return str(path)


def names(settings: dict, *of_world) -> list[str]:
    config = with_settings(Config(), settings).simulate
    return [d["name"] for d in toolbox(config, of_world).described]


def test_the_settings_say_which_tools_there_are():
    assert names({}) == ["lookup"]
    assert names({"simulate.tools": ["calculate", "python"]}) == ["calculate", "python"]
    assert names({"simulate.tools": ["lookup"]}, OF_ARITHMETIC) == ["lookup", "calculate"]
    with pytest.raises(ValueError, match="two of them are called calculate; leave one out of simulate.tools"):
        names({"simulate.tools": ["calculate"]}, OF_ARITHMETIC)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"simulate.tools": ["browse"]}, "simulate.tools is 'browse'; it must be one of lookup, calculate, python"),
        ({"simulate.tools": ["python"], "simulate.calls": 0}, "nothing may be called; set simulate.calls above 0"),
        ({"simulate.mcp": "x.yaml", "simulate.calls": 0}, "simulate.mcp is x.yaml; nothing may be called"),
        ({"simulate.call_seconds": 0.0}, "simulate.call_seconds is 0.0; it must be above 0"),
        ({"rollouts.url": ["http://127.0.0.1:1/v1"], "base": "x"}, "simulate.calls is 1; servers of the run's own"),
    ],
)
def test_settings_at_odds_are_one_line(settings, said):
    with pytest.raises(ConfigError) as caught:
        with_settings(Config(), settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_keeps_what_servers_offer_and_goes_on_only_while_they_offer_the_same(little_run, tokenizer, tmp_path):
    path = offering(tmp_path, environment=["THINGS_KEY"])
    config = changed(little_run.config, simulate__mcp=path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THINGS_KEY", "hush-hush")
        run = prepared(tmp_path / "run", config, tokenizer)
        run.metrics.close()
        assert [d["name"] for d in run.tools.described] == ["lookup", "add"]
        offering(tmp_path, environment=["THINGS_KEY"], timeout=7.0)
        runs.prepare(run.directory, config, Silent()).metrics.close()
        offering(tmp_path, environment=["THINGS_KEY"], allow=["add", "echo"])
        with pytest.raises(ValueError, match="the tools of .* changed since the run began; restore them or start"):
            runs.prepare(run.directory, config, Silent())
    kept = (run.directory / INPUTS).read_text()
    assert json.loads(kept)["tools of servers"]["things"]["tools"][0]["name"] == "add"
    assert not any("hush" in file.read_text() for file in run.directory.glob("*.json")), "a key is in no file"
    (tmp_path / "servers.yaml").unlink()
    (run.directory / "gen-000").mkdir()
    assert runs.prepare(run.directory, config, Silent(), writes=False).tools.described == run.tools.described


def test_of_several_processes_the_first_looks_for_tools(tmp_path):
    config = with_settings(Config(), {"simulate.mcp": str(tmp_path / "no file"), "simulate.tools": []}).simulate
    told = {"things": {"command": "", "tools": [{"name": "add", "description": "Adds.", "parameters": {}}]}}
    follower = dataclasses.replace(ALONE, number=1)
    object.__setattr__(follower, "decided", lambda what, decide: told)
    box = open_toolbox(epath.Path(tmp_path), config, (), Silent(), True, follower)
    assert [d["name"] for d in box.described] == ["add"]
    with pytest.raises(ValueError, match="cannot be read"):
        open_toolbox(epath.Path(tmp_path), config, (), Silent(), True, ALONE)


@pytest.fixture(scope="module")
def writer(little_run):
    return little_run.writer(None)


@pytest.fixture(scope="module")
def asked(writer, little_run):
    """A task that is to be answered."""
    task = little_run.tasks(1)[0]
    return Draft(task, 0, (), tuple(writer.tokenizer.render(task.messages)), messages=task.messages)


def calling(writer, *turns: str, box, **settings):
    """A writer whose turns are these calls, in JSON, and after them an answer; then it begins again."""
    (ended,) = saying(writer, "it is so.").sampler(None, [0])
    begins = dataclasses.replace(ended, tokens=ended.tokens[:0], stop=writer.tokenizer.calling(["a"]).opening[0])
    said = [one for call in turns for one in (begins, *saying(writer, call).sampler(None, [0]))]
    left = itertools.cycle([*said, ended])
    config = dataclasses.replace(writer.config, **{"calls": len(turns)} | settings)
    sampler = lambda params, requests, **_: [next(left) for _ in requests]
    return dataclasses.replace(writer, sampler=sampler, tools=box, config=config, max_length=2000)


def test_programs_and_sums_are_in_the_transcript_with_their_answers(writer, asked):
    config = with_settings(Config(), {"simulate.tools": ["lookup", "calculate", "python"]}).simulate
    curious = calling(writer, '{"code":"print(6*7)"}', '{"expression":"6*8"}', box=toolbox(config, ()))
    (t,) = finish(curious, None, [asked], generation=1, seed=3)
    again = transcript_from_json(to_json(t))
    assert again.calls == (("python", {"code": "print(6*7)"}), ("calculate", {"expression": "6*8"}))
    assert [m["content"] for m in again.messages if m["role"] == "tool"] == ["42", "48"]
    assert called(again.messages) == ['python {"code":"print(6*7)"}', "→ 42", 'calculate {"expression":"6*8"}', "→ 48"]
    assert len(again.called) == 2 and t.text == "it is so." and t.finished


class Slow:
    """A tool that says it took some seconds, and was given some."""

    described = ({"name": "slow", "description": "Waits.", "parameters": {"type": "object", "properties": {}}},)

    def __init__(self):
        self.given, self.dies_after = [], 100

    def answers(self, asked):
        self.given += [one.seconds for one in asked]
        if len(self.given) > self.dies_after:
            raise KeyboardInterrupt
        return [Answered("at last", 4.0) for _ in asked]


def test_the_tools_of_a_transcript_have_so_many_calls_and_seconds_together(writer, asked):
    slow = Slow()
    curious = calling(writer, *["{}"] * 4, box=Toolbox([slow], lookup=False), call_seconds=7.0)
    (t,) = finish(curious, None, [asked], generation=1, seed=3)
    assert slow.given == [7.0, 3.0]
    answers = [m["content"] for m in t.messages if m["role"] == "tool"]
    assert answers == ["at last", "at last", "no time is left for tools", "no time is left for tools"]


def test_a_unit_that_is_committed_calls_no_tool_again(little_run, writer, tmp_path):
    """The second unit is killed while its tool is asked, and that one alone is asked again."""
    config = changed(little_run.config, simulate__samples=1, simulate__unit_tasks=1, simulate__passages=1)
    slow, tasks = Slow(), little_run.tasks(1)
    box = Toolbox([slow], lookup=False)
    run = dataclasses.replace(little_run, directory=epath.Path(tmp_path), config=config, tools=box)

    def simulated() -> list[list[Transcript]]:
        g = Generation(run, 1, 0, None, None, tasks, {t.id: t for t in tasks})
        g.__dict__["writer"] = calling(writer, "{}", box=box)
        return transcripts.simulate(g)

    slow.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        simulated()
    slow.dies_after = 100
    made = simulated()
    assert len(slow.given) == 3 and len(made) == len(tasks) == 2
    assert [[m["content"] for m in t.messages if m["role"] == "tool"] for (t,) in made] == [["at last"]] * 2
    simulated()
    assert len(slow.given) == 3


def test_a_sandbox_is_made_ready_when_a_run_begins_and_not_for_one_that_is_looked_at(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Sandbox, "ready", lambda self, say: made.append(1))
    config = with_settings(Config(), {"simulate.tools": ["python"]}).simulate
    (tmp_path / INPUTS).write_text("{}")
    for writes in (True, False):
        if not writes:
            monkeypatch.setattr("ratchet.bootstrap.toolkit.offered.Commits.read", lambda self, path: {})
        open_toolbox(epath.Path(tmp_path), config, (), Silent(), writes, ALONE)
    assert made == [1]

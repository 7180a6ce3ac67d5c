"""MCP servers, real ones: started by a command, or found on loopback."""

import json
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import anyio
import mcp
import portpicker
import pytest
import yaml
from injections import DOCUMENTS

from ratchet.bootstrap.toolkit import sessions
from ratchet.bootstrap.toolkit.sessions import Sessions, list_tools
from ratchet.bootstrap.toolkit.source import Asked, Functions
from ratchet.bootstrap.tools import LONGEST_ANSWER, Toolbox

SERVER = str(Path(__file__).with_name("toolserver.py"))
COMMAND = [sys.executable, SERVER]


@pytest.fixture(scope="module")
def address():
    """The server as one process that goes on, at an address."""
    port = portpicker.pick_unused_port()
    with subprocess.Popen([*COMMAND, str(port)], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with closing(socket.socket()) as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.fixture(scope="module")
def listed(address, tmp_path_factory):
    """All that the server has, as it was found once."""
    path = tmp_path_factory.mktemp("all") / "servers.yaml"
    allow = ["count", "die", "variable"]
    path.write_text(yaml.safe_dump({"version": 1, "servers": [{"name": "things", "url": address, "allow": allow}]}))
    return json.loads(json.dumps(list_tools(str(path))))


@pytest.fixture
def offering(tmp_path):
    """Writes a file of servers and opens it."""

    def write(*servers, **server) -> str:
        path = tmp_path / "servers.yaml"
        path.write_text(yaml.safe_dump({"version": 1, "servers": [*servers, *([server] if server else [])]}))
        return str(path)

    return write


def opened(path: str) -> Sessions:
    return Sessions(path, json.loads(json.dumps(list_tools(path))))


def said(source: Sessions, *calls, seconds: float = 60.0) -> list[str]:
    return [a.text for a in source.answers([Asked(name, arguments, seconds) for name, arguments in calls])]


def test_a_server_at_an_address_offers_what_is_allowed_and_answers(offering, address):
    path = offering(name="things", url=address, allow=["echo", "add", "picture", "fail"], concurrency=4)
    source = opened(path)
    assert [d["name"] for d in source.described] == ["echo", "add", "picture", "fail"]
    (add,) = [d for d in source.described if d["name"] == "add"]
    assert add["description"] == "Adds two numbers." and add["parameters"]["required"] == ["a", "b"]
    assert add["parameters"]["additionalProperties"] is False
    calls = [("add", {"a": n, "b": 1}) for n in range(20)]
    assert said(source, *calls) == [str(n + 1) for n in range(20)], "in order, whoever answers first"
    found = said(source, ("echo", {"text": "é"}), ("picture", {}), ("fail", {}), ("add", {"a": "x", "b": 1}))
    assert found[:2] == ["é", "(image)\na"] 
    for failed, name in zip(found[2:], ("fail", "add"), strict=True):
        assert failed.startswith("error: ") and f"tool {name}" in failed, "which is an answer, too"


def test_what_hostile_tools_say_comes_back_as_it_is_and_is_cut(offering, address):
    box = Toolbox([opened(offering(name="things", url=address, allow=["echo"], concurrency=8))])
    answers = box.answers([Asked("echo", {"text": text}, 60.0) for text in DOCUMENTS])
    assert [a.text for a in answers] == [text[:LONGEST_ANSWER] or "nothing is said" for text in DOCUMENTS]
    (long,) = box.answers([Asked("echo", {"text": "so ", "times": 10**6}, 60.0)])
    assert long.text == ("so " * LONGEST_ANSWER)[:LONGEST_ANSWER]


def test_a_server_that_dies_is_an_answer_and_the_next_call_finds_it_again(offering, listed):
    """It begins anew for each turn, too, and keeps nothing."""
    source = Sessions(offering(name="things", command=COMMAND, allow=["count", "die"]), listed)
    counted = ("count", {})
    first, second, died, third = said(source, counted, counted, ("die", {}), counted)
    assert (first, second, third) == ("1", "2", "1") and died.startswith("things has ended before it answered (")
    (again,) = said(source, counted)
    assert again == "1"


def test_a_server_that_dies_again_and_again_is_given_up(offering, listed):
    source = Sessions(offering(name="things", command=COMMAND, allow=["die"]), listed)
    found = said(source, *[("die", {})] * 5)
    assert [one.startswith("things has ended before it answered") for one in found] == [True] * 3 + [False] * 2
    assert all(one.startswith("things does not answer (") and "\n" not in one for one in found[3:])


def test_a_server_that_stalls_is_an_answer_and_is_given_up(offering, address):
    source = opened(offering(name="things", url=address, allow=["sleep", "add"], timeout=0.3))
    found = said(source, *[("sleep", {"seconds": 2.0})] * 5)
    assert found[:3] == ["things has not answered within 0.3 seconds"] * 3
    assert all(one.startswith("things does not answer (things has not answered") for one in found[3:])


def test_no_call_takes_longer_than_is_left_for_its_transcript(offering, address):
    source = opened(offering(name="things", url=address, allow=["sleep"]))
    (late,) = source.answers([Asked("sleep", {"seconds": 2.0}, 0.2)])
    assert late.text == "things has not answered within 0.2 seconds" and late.seconds > 0.1


def test_a_command_gets_the_variables_that_are_named_and_no_other(offering, listed, monkeypatch):
    monkeypatch.setenv("THINGS_KEY", "hush-hush")
    monkeypatch.setenv("OTHER_KEY", "a secret")
    path = offering(name="things", command=COMMAND, allow=["variable"], environment=["THINGS_KEY"])
    source = Sessions(path, listed)
    own, other = said(source, ("variable", {"name": "THINGS_KEY"}), ("variable", {"name": "OTHER_KEY"}))
    assert (own, other) == ("(THINGS_KEY)", "not set"), "what it holds comes into no transcript"
    monkeypatch.delenv("THINGS_KEY")
    with pytest.raises(ValueError, match="things needs the environment variable THINGS_KEY; set it"):
        list_tools(path)


def test_an_address_is_sent_a_token_from_the_environment(offering, monkeypatch):
    """What it is sent stands in no message, even where the server refuses it and repeats it."""
    heard = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            while True:
                one, _ = listener.accept()
                heard.append(one.recv(10000).decode())
                one.sendall(b"HTTP/1.1 401 no hush-hush\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                one.close()

        threading.Thread(target=refuse, daemon=True).start()
        monkeypatch.setenv("THINGS_KEY", "hush-hush")
        with pytest.raises(ValueError, match="things does not start") as caught:
            list_tools(offering(name="things", url=f"http://127.0.0.1:{port}/mcp", allow=["add"], token="THINGS_KEY"))
    assert "authorization: bearer hush-hush" in heard[0].lower()
    assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"command": ["no-such-program"]}, "things does not start (.*no-such-program.*); see to its command"),
        ({"command": [*COMMAND, "broken"]}, "does not start (.*there is no such thing as a server here"),
        ({"url": "http://127.0.0.1:9/mcp"}, "things does not start (.+); see to its url"),
        ({"allow": ["add", "remove"]}, "things has no tool remove; there are: add, echo, count"),
        ({"allow": ["odd"]}, "what odd takes cannot be kept to by a grammar, field words (.*unique"),
    ],
)
def test_what_cannot_be_had_is_one_line_when_the_run_begins(offering, address, server, said):
    server = {"url": address, **server} if "allow" in server else server
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")) as caught:
        list_tools(offering(**{"name": "things", "allow": ["add"]} | server))
    assert "\n" not in str(caught.value)


def test_a_server_that_says_nothing_is_not_waited_for(offering, monkeypatch):
    monkeypatch.setattr(sessions, "STARTING", 0.5)
    with pytest.raises(ValueError, match="things does not start .nothing within 0.5 seconds.; see to its command"):
        list_tools(offering(name="things", command=[*COMMAND, "mute"], allow=["add"]))


class Slow:
    """A client of a server that offers a tool, but for what it never does."""

    def __init__(self, never, takes=None):
        self.never, self.takes = never, takes or {"type": "object"}

    def __call__(self, transport):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self._if("end")

    async def list_tools(self, cursor):
        await self._if("list")
        tool = SimpleNamespace(name="add", description="", input_schema=self.takes)
        return SimpleNamespace(tools=[tool], next_cursor=None)

    async def call_tool(self, name, arguments):
        part = SimpleNamespace(type="text", text="3")
        return SimpleNamespace(content=[part], structured_content=None, is_error=False)

    async def _if(self, what):
        if self.never == what:
            await anyio.sleep_forever()


def test_a_server_that_lists_nothing_is_not_waited_for(offering, monkeypatch):
    monkeypatch.setattr(mcp, "Client", Slow("list"))
    monkeypatch.setattr(sessions, "STARTING", 0.2)
    with pytest.raises(ValueError, match="does not start .no list of its tools within 0.2 seconds.; see to its url"):
        list_tools(offering(name="things", url="http://127.0.0.1:9/mcp", allow=["add"]))


def test_a_server_that_does_not_end_is_not_waited_for_and_its_answers_stand(offering, monkeypatch):
    monkeypatch.setattr(mcp, "Client", Slow("end"))
    monkeypatch.setattr(sessions, "STARTING", 0.2)
    source = opened(offering(name="things", url="http://127.0.0.1:9/mcp", allow=["add"]))
    assert said(source, ("add", {}), ("add", {})) == ["3", "3"]


@pytest.mark.parametrize("takes", [{"type": "string"}, {"type": ["object", "null"]}, {"type": "array", "items": {}}])
def test_a_tool_that_takes_no_object_is_refused(offering, monkeypatch, takes):
    monkeypatch.setattr(mcp, "Client", Slow("", takes))
    with pytest.raises(ValueError, match="things: what add takes is no object .its type is .*; leave it out of allow"):
        list_tools(offering(name="things", url="http://127.0.0.1:9/mcp", allow=["add"]))


def test_a_tool_that_does_not_say_so_takes_an_object(offering, monkeypatch):
    monkeypatch.setattr(mcp, "Client", Slow("", {"properties": {"a": {"type": "integer"}}}))
    (tool,) = opened(offering(name="things", url="http://127.0.0.1:9/mcp", allow=["add"])).described
    assert tool["parameters"]["type"] == "object"


def test_two_servers_with_a_tool_of_the_same_name_are_refused(offering, address):
    one, other = ({"name": name, "url": address, "allow": ["add"]} for name in ("here", "there"))
    with pytest.raises(ValueError, match="two of them are called add; leave one out of simulate.tools or of `allow`"):
        Toolbox([Functions([]), opened(offering(one, other))])


def test_without_the_library_the_extra_is_named(offering, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(ValueError, match=r"simulate.mcp: it needs the library mcp; `.*pip install 'ratchet\[tools\]'`"):
        list_tools(offering(name="things", command=COMMAND, allow=["add"]))

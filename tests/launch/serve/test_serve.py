"""What is served, and the command that serves it."""

import asyncio
import contextlib
import dataclasses
import gc
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import uvicorn
from etils import epath
from processes import FOR_EVER
from serving import of_folder, write_folder
from support import awaken, start, tiny_config

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.progress import Silent
from ratchet.launch import api, cli
from ratchet.launch.commands.serve import listening
from ratchet.launch.lines import UserError
from ratchet.launch.serve import desk, ending, served
from ratchet.launch.serve.asked import Refused
from ratchet.launch.serve.desk import Desk
from ratchet.launch.serve.listening import answering
from ratchet.models import huggingface
from ratchet.models.architectures import read_config
from ratchet.models.decoder import create
from ratchet.models.draw import Warp
from ratchet.models.extras import installing
from ratchet.models.grammar import Grammar
from ratchet.models.rounds import Asked
from ratchet.models.sampler import Request


def post(address, path, body):
    request = urllib.request.Request(f"{address}/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("speaker"))


def generation_0(place):
    """The directory of a run with a seed model of random weights."""
    config = tiny_config(train__columns=192, simulate__new_tokens=8, simulate__slots=1)
    directory = start(place, config)
    run = runs.prepare(directory, config, Silent())
    run.keep_weights(run.generation(0), awaken(create(config.model, 0)[1]))
    return directory


def test_a_generation_answers_as_ratchet_chat_does(tmp_path):
    """By its own tokenizer, which no other library reads, with the run's sampler."""
    directory = generation_0(tmp_path / "mine")
    model, messages = api.load(directory, 0), [{"role": "user", "content": "what is it?"}]
    ask = {"model": "mine-gen-000", "messages": messages, "max_tokens": 8, "temperature": 0.8, "seed": 3}
    with answering(served.of_run(model, slots=2, context=0)) as address:
        made = post(address, "chat/completions", ask)
        info = json.loads(urllib.request.urlopen(f"{address}/tokenizer_info").read())
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            post(address, "chat/completions", ask | {"tools": [{"type": "function", "function": {"name": "look"}}]})
        assert "mine-gen-000 calls none: it was trained from scratch" in refused.value.read().decode()
        refused.value.close()
    assert made["choices"][0]["message"]["content"].strip() == model.answer(messages, temperature=0.8, seed=3)
    assert made["usage"]["prompt_tokens"] == len(model.prompt(messages))
    assert info["eos_token"] == "<|end|>" and "chat_template" not in info


def test_a_folder_is_served_without_other_weights_of_its_size(folder, monkeypatch):
    monkeypatch.setattr("ratchet.models.decoder.create", lambda *_: pytest.fail("weights that nobody reads"))
    assert of_folder(folder).name == folder.name


def test_a_folder_without_a_chat_template_completes_and_does_not_chat(folder, tmp_path):
    for file in folder.iterdir():
        (epath.Path(tmp_path) / file.name).write_bytes(file.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with answering(of_folder(tmp_path)) as address:
        ask = {"model": tmp_path.name, "max_tokens": 2, "temperature": 0}
        assert post(address, "v1/completions", {**ask, "prompt": "what is"})["usage"]["completion_tokens"] == 2
        with pytest.raises(urllib.error.HTTPError, match="400") as refused:
            post(address, "v1/chat/completions", {**ask, "messages": [{"role": "user", "content": "a"}]})
        assert "it completes text and answers no messages" in refused.value.read().decode()
        refused.value.close()
        info = json.loads(urllib.request.urlopen(f"{address}/tokenizer_info").read())
    assert info["eos_token"] == "<|im_end|>" and "chat_template" not in info


def test_whoever_stops_listening_gives_the_request_up(folder):
    """Two slots, two endless requests: a third is answered as soon as one of them is left alone."""
    model = of_folder(folder, slots=2)
    endless = lambda n: Asked(Request(n, (5, 6)), n, 150)

    async def listen(desk):
        first, second = desk.say(endless(1)), desk.say(endless(2))
        await anext(first), await anext(second)
        await first.aclose()
        parts = [part async for part in desk.say(Asked(Request(3, (7,)), 0, 4))]
        heard = [part async for part in second]
        return parts, heard

    with Desk(model) as desk:
        third, second = asyncio.run(listen(desk))
    assert sum(len(part.tokens) for part in third) <= 4 and third[-1].ended and second[-1].ended


def write_weights(place, folder, seed, **changes):
    """Other weights of a folder's model, or those of another."""
    model = dataclasses.replace(read_config(folder), **changes)
    huggingface.save(epath.Path(place), model, awaken(create(model, 3)[1], seed), "float32")
    return epath.Path(place)


def test_other_weights_are_taken_from_the_folder_that_was_named_and_from_nowhere_else(folder, tmp_path):
    model = of_folder(folder)
    other = write_weights(tmp_path / "weights" / "other", folder, 9)
    wider = write_weights(tmp_path / "weights" / "wider", folder, 9, mlp_width=96)
    outside = write_weights(tmp_path / "outside", folder, 9)
    echo = {"model": folder.name, "prompt": "what is it", "max_tokens": 1, "temperature": 0}
    echo |= {"echo": True, "logprobs": 1}
    said = lambda address: post(address, "v1/completions", echo)["choices"][0]["logprobs"]["token_logprobs"][1:]
    take = lambda address, place: post(address, "update_weights_from_disk", {"model_path": str(place)})
    with answering(model, tmp_path / "weights") as address:
        before = said(address)
        for place, status in (("weights\0", 400), (wider, 400), (tmp_path / "weights" / "none", 400), (outside, 403),
                              (tmp_path / "weights" / ".." / "outside", 403)):  # fmt: skip
            with pytest.raises(urllib.error.HTTPError, match=str(status)) as refused:
                take(address, place)
            refused.value.close()
        assert said(address) == before
        assert take(address, other)["success"]
        after = said(address)
        assert take(address, folder_copy(folder, tmp_path / "weights" / "own"))["success"] and said(address) == before
    with answering(of_folder(folder_copy(other, tmp_path / "as one", folder))) as address:
        echo["model"] = "as one"
        np.testing.assert_allclose(said(address), after, atol=1e-5)
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) > 0.1
    with answering(model) as address, pytest.raises(urllib.error.HTTPError, match="404") as refused:
        take(address, other)
    refused.value.close()


def folder_copy(folder, place, beside=None):
    """The files of a folder, after those of another, in a third."""
    place.mkdir()
    for file in (*(beside.iterdir() if beside else ()), *folder.iterdir()):
        (epath.Path(place) / file.name).write_bytes(file.read_bytes())
    return place


def test_no_answer_is_begun_by_one_model_and_ended_by_another(folder, tmp_path):
    """A request under way when other weights come ends by those that it began with, and the next has the new ones."""
    model = of_folder(folder)
    other = model.other(write_weights(tmp_path / "other", folder, 9))
    long, short = Asked(Request(1, (5, 6)), 1, 60, Warp(0.0)), Asked(Request(2, (7, 8)), 2, 8, Warp(0.0))

    async def tokens(desk, asked):
        return [token async for part in desk.say(asked) for token in part.tokens.tolist()]

    async def meanwhile(desk):
        begun = desk.say(long)
        first = await anext(begun)
        change = asyncio.create_task(desk.change(other))
        await asyncio.sleep(0)
        late = asyncio.create_task(tokens(desk, short))
        return [*first.tokens.tolist(), *[t async for p in begun for t in p.tokens.tolist()]], await late, await change

    async def alone(desk):
        return await tokens(desk, long), await tokens(desk, short)

    with Desk(model) as desk:
        old = asyncio.run(alone(desk))
        mixed = asyncio.run(meanwhile(desk))
        new = asyncio.run(alone(desk))
    assert old[0] != new[0] and old[1] != new[1]
    assert mixed == (old[0], new[1], None)


def test_what_goes_wrong_is_told_to_those_who_wait_and_the_next_are_answered(folder, monkeypatch):
    model = of_folder(folder)
    logs = type(model.scorer).logs

    def once(scorer, *arguments):
        monkeypatch.setattr(type(model.scorer), "logs", logs)
        raise RuntimeError("out of memory")

    async def ask(desk):
        with pytest.raises(RuntimeError, match="out of memory"):
            await desk.logs((5, 6, 7))
        return await desk.logs((5, 6, 7))

    monkeypatch.setattr(type(model.scorer), "logs", once)
    with Desk(model) as desk:
        found = asyncio.run(ask(desk))
    assert found.own.shape == (3,) and np.all(np.isfinite(found.own))


def test_a_round_that_goes_wrong_is_told_to_those_in_it_alone(folder, monkeypatch):
    """One slot: the second waits while the first fails."""
    model, step = of_folder(folder, slots=1), desk.Round.step

    def once(turn):
        monkeypatch.setattr(desk.Round, "step", step)
        raise RuntimeError("lost its way")

    async def ask(open_desk):
        said = [open_desk.say(Asked(Request(n, (5, 6)), n, 4)) for n in range(2)]
        first, second = (asyncio.create_task(anext(one)) for one in said)
        with pytest.raises(RuntimeError, match="lost its way"):
            await first
        assert len((await second).tokens) > 0
        for one in said:
            await one.aclose()

    monkeypatch.setattr(desk.Round, "step", once)
    with Desk(model) as open_desk:
        asyncio.run(ask(open_desk))


def test_a_request_that_cannot_be_seated_is_told_too(folder, monkeypatch):
    join = desk.Round.join

    def once(turn, asked):
        monkeypatch.setattr(desk.Round, "join", join)
        raise OverflowError("too large a number")

    async def ask(open_desk):
        asked = Asked(Request(1, (5, 6)), 1, 4)
        with pytest.raises(OverflowError):
            await asyncio.wait_for(anext(open_desk.say(asked)), FOR_EVER)
        return [part async for part in open_desk.say(asked)]

    monkeypatch.setattr(desk.Round, "join", once)
    with Desk(of_folder(folder)) as open_desk:
        assert asyncio.run(ask(open_desk))[-1].ended


def test_a_grammar_that_is_lost_is_told_to_its_own_request_alone(folder):
    """llguidance takes the schema, and can make nothing of it when the first token is due."""
    model = of_folder(folder)
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    bad, fit = (Grammar.of_json(schema, model.tokenizer.spelled()) for schema in (circle, {"type": "boolean"}))

    async def ask(open_desk, grammar, seed):
        request = Request(seed, (5, 6), grammar=grammar)
        return [part async for part in open_desk.say(Asked(request, seed, 8))]

    async def together(open_desk):
        asked = [ask(open_desk, grammar, seed) for seed, grammar in enumerate((fit, bad, fit))]
        first, lost, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(lost, Refused) and lost.status == 400 and "give it a simpler schema" in str(lost)
        for parts in (first, third, await ask(open_desk, fit, 3)):
            tokens = [int(token) for part in parts for token in part.tokens]
            assert parts[-1].ended and len(tokens) > 0

    with Desk(model) as open_desk:
        asyncio.run(together(open_desk))


def test_a_text_whose_client_has_gone_is_not_scored(folder, monkeypatch):
    model = of_folder(folder)
    logs, scored, begun, going = type(model.scorer).logs, [], threading.Event(), threading.Event()

    def watched(scorer, params, texts, keep):
        scored.append(list(texts))
        begun.set()
        assert going.wait(FOR_EVER)
        return logs(scorer, params, texts, keep)

    async def ask(desk):
        first = asyncio.create_task(desk.logs((5, 6, 7)))
        await asyncio.to_thread(begun.wait, FOR_EVER)
        others = [asyncio.create_task(desk.logs(text)) for text in ((8, 9), (10, 11))]
        await asyncio.sleep(0)  # they are asked
        others[0].cancel()
        await asyncio.gather(others[0], return_exceptions=True)
        going.set()
        return await first, await others[1]

    monkeypatch.setattr(type(model.scorer), "logs", watched)
    with Desk(model) as desk:
        asyncio.run(ask(desk))
    assert scored == [[(5, 6, 7)], [(10, 11)]]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"context": 1000}, "the model reads 2 to 192 tokens; set --context"),
        ({"slots": 0}, "0 slots do not divide over 1 devices"),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(folder, settings, line):
    with pytest.raises(ValueError, match=line):
        of_folder(folder, **settings)


def test_a_port_is_taken_from_the_moment_that_it_is_said_to_be():
    """Two that only bind an address may both have it."""
    first = listening("serve", "127.0.0.1", 0)
    with contextlib.closing(first), pytest.raises(UserError, match="cannot listen on"):
        listening("serve", "127.0.0.1", first.getsockname()[1])


def test_a_port_that_is_taken_is_one_line_and_leaves_no_socket_open(capsys, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--base", str(folder), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port} (" in capsys.readouterr().err
    gc.collect()  # which would warn of it


def test_without_the_web_library_it_is_one_line_that_names_the_extra(monkeypatch, capsys, folder):
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "uvicorn" and installed(name))
    assert cli.main(["serve", "--base", str(folder), "--port", "0"]) == 2
    assert capsys.readouterr().err.endswith(f"it needs uvicorn; {installing('serve')}\n")


def test_tasks_of_lm_eval_without_it_are_one_line_that_names_the_extra(monkeypatch, capsys, tmp_path):
    installed = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "lm_eval" and installed(name))
    directory = generation_0(tmp_path / "mine")
    assert cli.main(["evaluate", str(directory), "--generation", "0", "--tasks", "arc_easy"]) == 2
    assert capsys.readouterr().err == f"ratchet: evaluate --tasks: it needs lm_eval; {installing('eval')}\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_serves_on_loopback_until_ctrl_c(folder, as_json):
    command = [sys.executable, "-m", "ratchet.launch", "serve", "--base", str(folder), "--port", "0"]
    environment, pipe = {**os.environ, "JAX_PLATFORMS": "cpu"}, subprocess.PIPE
    command += ["--json"] * as_json
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as running:
        if as_json:
            told = json.loads(running.stdout.readline())
            name, address = told["model"], told["url"]
        else:
            line = next(line for line in running.stderr if line.startswith("serving"))
            name, address = line.split()[1], line.split()[3].rstrip(";")
        address = address.removesuffix("/v1")
        assert name == folder.name and address.startswith("http://127.0.0.1:")
        while True:
            try:
                listed = json.loads(urllib.request.urlopen(f"{address}/v1/models").read())
                break
            except urllib.error.URLError:
                assert running.poll() is None
        assert listed["data"][0]["id"] == name
        running.send_signal(signal.SIGINT)
        assert running.wait(FOR_EVER) == 130 and running.stderr.read() == "ratchet: stopped by SIGINT\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_one_line_and_what_is_begun_is_answered(capfd, number):
    async def app(scope, receive, send):
        signal.raise_signal(number)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answered"})

    listener, heard = socket.create_server(("127.0.0.1", 0)), []
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def ask() -> None:
        try:
            heard.append(urllib.request.urlopen(address).read())
        finally:
            if not heard:  # nothing else would end the server
                os.kill(os.getpid(), number)

    asking = threading.Thread(target=ask)
    asking.start()
    config = uvicorn.Config(app, log_config=None, lifespan="off")
    assert ending.answer(config, listener) == 128 + number
    asking.join()
    assert heard == [b"answered"]
    assert capfd.readouterr().err == f"ratchet: stopped by {number.name}\n"

"""Servers of the run's own model write with its weights, and with no others."""

import contextlib
import dataclasses
import json
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import uvicorn
from etils import epath
from support import awaken, changed, little_config, start
from templates import write_folder

from ratchet.bootstrap import run as runs
from ratchet.bootstrap import wrongthink
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.probes import labelled_probes, own_answers
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.rollouts import replicas
from ratchet.bootstrap.rollouts.handover import hand_over
from ratchet.bootstrap.rollouts.replicas import find_server
from ratchet.bootstrap.simulate import finish
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.teacher.client import Client, ServerRefused, ServerStopped
from ratchet.bootstrap.transcript import Review
from ratchet.launch.serve import served
from ratchet.launch.serve.listening import answering
from ratchet.models import decoder, huggingface
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.sampler import Request
from ratchet.train import sharding
from ratchet.train.buckets import download
from ratchet.train.together import ALONE

MODEL = DecoderConfig(
    vocab_size=704, width=32, layers=1, heads=2, kv_heads=2, mlp_width=64, max_length=512, conv=1,
    family=Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)  # fmt: skip


def weights(seed):
    """Weights that bfloat16 holds as they are, so that servers say what the run itself would."""
    rounded = lambda x: (2 * x).astype(jnp.bfloat16).astype(jnp.float32)
    return jax.tree.map(rounded, awaken(decoder.create(MODEL, 3)[1], seed))


@pytest.fixture(scope="module", autouse=True)
def one_device():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "make_mesh", lambda config: sharding.make_mesh(config, jax.devices()[:1]))
        patch.setattr("ratchet.bootstrap.teacher.client.ATTEMPTS", 2)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = epath.Path(tmp_path_factory.mktemp("base") / "llama")
    huggingface.save(place, MODEL, weights(1), "float32")
    return write_folder(place, "qwen")


class Heard(Silent):
    """Progress that keeps its lines."""

    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


@pytest.fixture
def run(folder, tmp_path):
    sizes = {"train__columns": 512, "model__max_length": 512, "simulate__keep": 4, "simulate__new_tokens": 12}
    few = {"simulate__samples": 3, "simulate__calls": 0, "simulate__unit_tasks": 2, "simulate__temperature": 0.0}
    config = runs.with_base(little_config(base=str(folder), **sizes | few))
    return runs.prepare(start(tmp_path / "run", config), config, Heard())


def generation(run, params, incumbent=0, url=(), place="run"):
    """A generation that servers write, or the run itself where there are none."""
    config = changed(run.config, rollouts__url=tuple(url), rollouts__concurrency=2)
    run = dataclasses.replace(run, directory=run.directory.parent / place, config=config)
    run.directory.mkdir(exist_ok=True)
    return Generation(run, 1, incumbent, params, params, run.tasks(1), {t.id: t for t in run.read(1)})


def written(*given, **more):
    """What a generation says, sibling by sibling."""
    return [t.tokens for unit in transcripts.simulate(generation(*given, **more)) for t in unit]


def taking(model, run):
    """A server that takes weights of the run; its address."""
    return contextlib.closing(_Open(answering(model, Path(run.directory / "rollouts"))))


class _Open:
    """A server that is open until it is closed, which may be done twice."""

    def __init__(self, context):
        self._stack = contextlib.ExitStack()
        self.root = self._stack.enter_context(context)
        self.url = f"{self.root}/v1"

    def close(self):
        self._stack.close()


@pytest.fixture
def speaker(folder):
    return served.of_base(str(folder), 4, 0)


def kept(run):
    """What was answered by the servers and kept, file by file."""
    return [json.loads(f.read_text())["answer"] for f in (run.directory / "rollouts" / "answers").glob("*/*/*.json")]


def load(root, place):
    body = json.dumps({"model_path": str(place)}).encode()
    return urllib.request.urlopen(urllib.request.Request(f"{root}/update_weights_from_disk", body)).read()


def test_after_a_promotion_they_write_with_the_weights_that_were_promoted(run, speaker, monkeypatch):
    """Greedy, they say what the run itself says by the same weights, token for token; what was kept before is not."""
    monkeypatch.setattr(replicas, "AT_A_TIME", 2)
    old, new = weights(1), weights(2)
    own = [written(run, params, place=f"own {n}") for n, params in enumerate((old, new))]
    with taking(speaker, run) as one, taking(speaker, run) as other:
        urls = (one.url, other.url)
        assert written(run, old, url=urls, place="run") == own[0]
        again = generation(run, new, 1, urls, "run")
        assert [t.tokens for unit in transcripts.simulate(again) for t in unit] == own[1] != own[0]
        clients = again.rollouts.clients
        assert all(c.counts.answered for c in clients), "one of them was asked nothing"
    place = run.directory / "rollouts"
    assert len(list((place / "answers").iterdir())) == 2 and len(list(place.glob("gen-*"))) == 1
    assert [line for line in run.progress.lines if "left out" in line] == []
    place.rmtree()
    t = transcripts.simulate(generation(run, new, 1, ("http://127.0.0.1:9/v1",)))[0][0]
    assert not place.exists(), "nobody is asked for what is committed, and given nothing"
    captured = run.scorer.distributions(new, [(t.prompt, t.tokens)], 4)[0]
    assert t.capture.ids_NK.tolist() == captured.ids.tolist()
    assert t.finished == (t.tokens[-1] == run.tokenizer.end)


def test_one_that_keeps_its_old_weights_is_left_out_and_the_others_write_all(run, speaker):
    new, obstinate = weights(2), dataclasses.replace(speaker, other=lambda place: speaker.weights)
    own = written(run, new, place="own")
    with taking(speaker, run) as good, taking(obstinate, run) as bad, taking(speaker, run) as deaf:
        generation(run, weights(1), 0, (good.url,)).rollouts.hand_over()  # as generation 1 was made
        plain = deaf.url.replace("/v1", "/elsewhere/v1")
        assert written(run, new, 1, url=(bad.url, good.url, plain)) == own
    lines = [line for line in run.progress.lines if "left out" in line]
    assert any(bad.url in line and "it answers by the weights of an earlier generation" in line for line in lines)
    assert any(plain in line for line in lines) and not any(good.url in line for line in lines)
    assert {file["by"] for file in kept(run)} == {good.url}


def test_one_that_was_never_told_of_weights_says_how_to_start_it(run, speaker):
    with answering(speaker) as root, pytest.raises(ServerStopped, match="no server is left that answers by the run"):
        written(run, weights(2), 1, url=(f"{root}/v1",))
    (line,) = [line for line in run.progress.lines if "left out" in line]
    assert line.endswith("it takes no weights by /update_weights_from_disk; start it with --weights-from")


def test_one_that_reads_too_little_is_left_out(run, folder):
    with taking(served.of_base(str(folder), 4, 100), run) as short, pytest.raises(ServerStopped):
        written(run, weights(1), url=(short.url,))
    (line,) = [line for line in run.progress.lines if "left out" in line]
    assert line.endswith("it reads 100 tokens, and a prompt with its answer may take 512")


def test_what_one_said_that_lost_its_weights_meanwhile_is_asked_of_another(run, speaker, folder, monkeypatch):
    monkeypatch.setattr(replicas, "AT_A_TIME", 2)
    new, own, reset = weights(2), written(run, weights(2), place="own"), threading.Event()
    old = run.directory / "rollouts" / "old"
    huggingface.save(old, MODEL, weights(1), "bfloat16")
    with taking(speaker, run) as good, taking(speaker, run) as lost:
        ask = Client.answers

        def answers(client, bodies, *more):
            if client.config.url == lost.url and "stop_token_ids" in bodies[0] and not reset.is_set():
                load(lost.root, old)  # as if it had been started anew
                reset.set()
            return ask(client, bodies, *more)

        monkeypatch.setattr(Client, "answers", answers)
        assert written(run, new, 1, url=(lost.url, good.url)) == own
    assert reset.is_set() and any(f"{lost.url} is left out" in line for line in run.progress.lines)


def hasty(monkeypatch):
    """Servers are asked for one answer at a time, soon taken for dead, and looked for at once."""
    monkeypatch.setattr(replicas, "AT_A_TIME", 1)
    monkeypatch.setattr(replicas, "LOOK", 0.0)
    monkeypatch.setattr("ratchet.bootstrap.rollouts.writing.servers", lambda config: [
        dataclasses.replace(client, pause=0.01) for client in replicas.servers(config)
    ])  # fmt: skip


def test_the_only_one_is_waited_for_while_it_starts_again(run, speaker, monkeypatch):
    """A cluster starts a server anew that has ended; the run goes on with it, and gives it the weights."""
    hasty(monkeypatch)
    new, own = weights(2), written(run, weights(2), place="own")
    with contextlib.ExitStack() as stack:
        first, said = stack.enter_context(taking(speaker, run)), []
        number = int(first.url.split(":")[2].removesuffix("/v1"))
        again = lambda app, port, real=uvicorn.Config, **more: real(app, port=number, **more)

        def advance(done):
            said.append(done)
            if sum(said) == 2:
                first.close()

        def line(text):
            run.progress.lines.append(text)
            if "no server is left; waiting" in text:
                monkeypatch.setattr(uvicorn, "Config", again)
                stack.enter_context(taking(served.of_base(run.config.base, 4, 0), run))

        monkeypatch.setattr(run.progress, "line", line, raising=False)
        g = generation(run, new, 1, (first.url,))
        drafts = [transcripts.draft(g.writer, g.index, t, n, "0 1") for t in g.tasks for n in range(3)]
        made = finish(g.author(), g.index, drafts, generation=1, seed=g.seed("simulate"), advance=advance)
    assert [t.tokens for t in made] == own
    assert sum("waiting up to 10 min" in line for line in run.progress.lines) == 1


def test_one_that_answers_nothing_when_it_is_back_is_not_waited_for_again(run, speaker, monkeypatch):
    hasty(monkeypatch)
    monkeypatch.setattr(replicas, "_answers", lambda client, looks=(looks := []): looks.append(client) or True)
    with pytest.raises(ServerStopped, match="no server is left"):
        written(run, weights(2), 1, url=("http://127.0.0.1:9/v1",))
    assert len(looks) == 1


def test_one_that_dies_is_left_out_and_a_run_whose_servers_all_died_goes_on_with_what_was(run, speaker, monkeypatch):
    hasty(monkeypatch)
    monkeypatch.setattr(replicas, "PATIENCE", 0.0)
    new, own = weights(2), written(run, weights(2), place="own")
    with taking(speaker, run) as one, taking(speaker, run) as other:
        urls, said = (one.url, other.url), []
        g = generation(run, new, 1, urls)
        drafts = [transcripts.draft(g.writer, g.index, t, n, "0 1") for t in g.tasks for n in range(3)]

        def advance(done):
            said.append(done)
            if sum(said) == 2:
                one.close()
            if sum(said) == 4:
                other.close()

        with pytest.raises(ServerStopped, match="no server is left"):
            finish(g.author(), g.index, drafts, generation=1, seed=g.seed("simulate"), advance=advance)
        assert 4 <= sum(said) < len(drafts)
    lines = [line for line in run.progress.lines if "left out" in line]
    assert len(lines) == 2 and all("it has failed 2 times in a row (no connection: " in line for line in lines)
    there = sum(len(file["answers"]) for file in kept(run))
    with taking(speaker, run) as anew:
        g = generation(run, new, 1, (anew.url,))
        made = finish(g.author(), g.index, drafts, generation=1, seed=g.seed("simulate"))
        assert sum(c.counts.answered for c in g.rollouts.clients) == len(drafts) - there
    assert [t.tokens for t in made] == own


def test_corrections_alternatives_and_answers_to_probes_are_theirs_too(run, speaker):
    """Greedy, they are what the run itself would write by the same weights."""
    new = weights(2)
    with taking(speaker, run) as one:
        g = generation(run, new, 1, (one.url,))
        client, end = g.rollouts.clients[0], run.tokenizer.end
        thoughts = [
            wrongthink.Thought(t, 0, tuple(run.tokenizer.encode("the lamp")), "the lamp", "it does not", "incumbent")
            for t in g.tasks
        ]
        how = {"generation": 1, "seed": 5}
        corrected, own = (
            [t for _, t in wrongthink.interrupt(writer, g.index, thoughts, "no,", **how)]
            for writer in (g.author(), g.writer)
        )
        assert client.counts.answered == len(thoughts) and [t.tokens for t in corrected] == [t.tokens for t in own]
        for by_servers, by_itself in zip(corrected, own, strict=True):
            np.testing.assert_allclose(by_servers.capture.probs_NK, by_itself.capture.probs_NK, atol=1e-3)
        passing = lambda drafts: [Review(t.id, {}, True) for t in drafts]
        given = passing, own, changed(run.config, targets__open_mass=0.0, targets__smallest_branch=0.01).targets
        found, expected = (
            make_targets(writer, run.scorer, *given, seed=5) for writer in (g.author(captured=False), g.writer)
        )
        assert [one.branches for one in found] == [one.branches for one in expected] != []
        opened = {(one.transcript_id, b.position, b.token) for one in found for b in one.branches if b.token != end}
        assert client.counts.answered == len(thoughts) + len(opened) > len(thoughts)
        before = client.counts.answered
        writers = g.author(captured=False), g.writer
        probes = [labelled_probes(run, run.probes, own_answers(run, w, run.probes, 1, 5)) for w in writers]
        assert [p.transcript.tokens for p in probes[0]] == [p.transcript.tokens for p in probes[1]]
        assert client.counts.answered == before + sum(not p.junk for p in probes[0]) > before


def test_what_servers_cannot_do_the_runs_own_sampler_does(run, speaker):
    """What other weights write, what keeps to a grammar, is longer than they read, or ends otherwise."""
    new, asked, end = weights(2), [], run.tokenizer.end

    def own(params, requests, **more):
        asked.append([r.id for r in requests])
        return run.sampler(params, [dataclasses.replace(r, grammar=None) for r in requests], **more)

    own.keep = run.sampler.keep
    with taking(speaker, run) as one:
        g = generation(run, new, 1, (one.url,))
        g.__dict__["writer"] = dataclasses.replace(g.writer, sampler=own)
        writer = g.author()
        prompts = [tuple(run.tokenizer.render(t.messages)) for t in g.tasks[:2]]
        long = prompts[0] + prompts[0][-1:] * (writer.room + 1 - len(prompts[0]))
        requests = [Request(1, prompts[0]), Request(2, long), Request(3, prompts[1]), Request(4, prompts[0], object())]
        said = writer.sample(requests, seed=5)
        assert asked == [[2, 4]] and g.rollouts.clients[0].counts.answered == 2
        expected = run.writer(new).sample([dataclasses.replace(r, grammar=None) for r in requests], seed=5)
        assert [s.tokens.tolist() for s in said] == [s.tokens.tolist() for s in expected]
        assert [s.ids.shape for s in said] == [s.ids.shape for s in expected]
        how = {"seed": 5, "temperature": 0.0}
        writer.sampler(weights(1), requests[:1], stop=(end,), **how)
        writer.sampler(new, requests[:1], stop=(end, 5), **how)
        assert asked[1:] == [[1], [1]] and g.rollouts.clients[0].counts.answered == 2


class _AsVllm(BaseHTTPRequestHandler):
    """Stands before one of our servers and takes weights as vLLM does."""

    root, told = "", None

    def log_message(self, *_):
        pass

    def do_GET(self):
        body = urllib.request.urlopen(self.root + self.path).read()
        self._send(body.replace(b'"owned_by":"ratchet"', b'"owned_by":"vllm"'))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/v1/"):
            self._send(urllib.request.urlopen(urllib.request.Request(self.root + self.path, body)).read())
            return
        self.told.append((self.path, json.loads(body)))
        if self.path == "/collective_rpc":
            load(self.root, json.loads(body)["kwargs"]["weights_path"])
        self._send(b"")

    def _send(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_vllm_is_told_in_its_own_words_where_it_sees_the_weights(run, speaker):
    new, told = weights(2), []
    elsewhere = run.directory.parent / "mounted"
    Path(elsewhere).symlink_to(run.directory)
    run = dataclasses.replace(run, config=changed(run.config, rollouts__directory=f"{elsewhere}/"))
    with taking(speaker, run) as behind:
        handler = type("Handler", (_AsVllm,), {"root": behind.root, "told": told})
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert written(run, new, 1, url=(f"http://127.0.0.1:{server.server_port}/v1",)) == written(
                run, new, place="own"
            )
            server.shutdown()
    (name,) = [path.name for path in (run.directory / "rollouts").glob("gen-001-*")]
    reload = {"method": "reload_weights", "kwargs": {"weights_path": f"{elsewhere}/rollouts/{name}"}}
    assert told == [("/collective_rpc", reload), ("/reset_prefix_cache", {})]


def test_a_run_begins_when_one_server_at_least_is_there(run, speaker):
    with taking(speaker, run) as one:
        find_server(changed(run.config, rollouts__url=("http://127.0.0.1:9/v1", one.url)).rollouts)
    with pytest.raises(ServerRefused, match="no server answers .*see to --rollouts.url"):
        find_server(changed(run.config, rollouts__url=("http://127.0.0.1:9/v1",)).rollouts)


def test_weights_lie_in_a_bucket_as_on_a_disk_and_those_before_them_no_longer(run, s3):
    place, text = s3.bucket / "runs" / "x" / "rollouts", (run.scorer, [(5, 6, 7, 8)])
    first, second = (
        hand_over(place, "/seen", n, weights(n + 1), run.config.model, text, ALONE) for n in range(2)
    )
    assert first.folder == f"/seen/gen-000-{first.weights[:8]}" and set(second.known) == {first.weights, second.weights}
    (name,) = [path.name for path in place.glob("gen-*")]
    download(place / name, copy := run.directory / "copy")
    found = huggingface.load(copy, run.config.model, lambda params: sharding.state_sharding(run.mesh, params))
    jax.tree.map(np.testing.assert_array_equal, found, weights(2))
    assert name == f"gen-001-{second.weights[:8]}"

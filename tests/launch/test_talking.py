"""Talking to a generation: in a pipe, by the Python API, from scratch and from a base."""

import io
import json

import jax
import pytest
from etils import epath
from support import awaken, start, tiny_config, write_model

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.progress import Silent
from ratchet.launch import api, cli
from ratchet.models.decoder import create

SIZES = {"train__columns": 192, "simulate__new_tokens": 8, "simulate__slots": 1}


def finished(directory, config, **done) -> epath.Path:
    """A run with a seed and two generations of random weights, of which the first was promoted."""
    directory = start(directory, config)
    run = runs.prepare(directory, config, Silent())
    for number, incumbent in ((0, 0), (1, 1), (2, 1)):
        place = directory / f"gen-{number:03d}"
        run.keep_weights(place, awaken(create(config.model, number)[1]))
        run.commits.write(place / "DONE.json", {"incumbent": incumbent, "accepted": {}, "rollbacks": 0})
    return directory


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("runs") / "scratch", tiny_config(**SIZES))


@pytest.fixture(scope="module")
def based(tmp_path_factory):
    """A run whose model is spoken to in a folder's template, with room for a few short exchanges."""
    folder = write_model(tmp_path_factory.mktemp("base"))
    config = runs.with_base(tiny_config(base=str(folder), **SIZES, simulate__calls=0, model__max_length=192))
    return finished(tmp_path_factory.mktemp("runs") / "based", config)


def chat(capsys, monkeypatch, text, *words):
    """(exit code, lines of stdout, stderr)"""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    code = cli.main(["chat", *(str(w) for w in words)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def user(text):
    return [{"role": "user", "content": text}]


def test_the_newest_promoted_generation_answers_and_any_other_when_asked(scratch):
    assert api.load(scratch).number == 1 and api.load(str(scratch), 2).number == 2
    words = {n: api.load(scratch, n).answer(user("what is it?"), temperature=0.0) for n in (1, 2)}
    assert words[1] != words[2]
    with pytest.raises(ValueError, match=f"has no finished generation 7; see `ratchet status {scratch}`"):
        api.load(scratch, 7)


def test_what_is_compiled_for_python_is_kept_where_commands_keep_it(scratch, monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr("pathlib.Path.home", lambda: tmp_path)
    try:
        for place in (None, "elsewhere"):
            jax.config.update("jax_compilation_cache_dir", place)
            api.load(scratch)
            assert jax.config.jax_compilation_cache_dir == (place or str(tmp_path / ".cache" / "ratchet" / "xla"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_generation_is_looked_at_without_other_weights_of_its_size(scratch, monkeypatch):
    """Those of a large model would not fit beside it."""
    monkeypatch.setattr("ratchet.models.decoder.create", lambda *_: pytest.fail("weights that nobody reads"))
    assert api.load(scratch).answer(user("what is it?"))


def test_an_answer_is_what_the_evaluation_would_hear(scratch):
    """The student's prompt, the run's sampler, the same seed."""
    model = api.load(scratch)
    writer, prompt = model.run.writer(model.weights), model.prompt(user("what is it?"))
    assert prompt == tuple(model.run.tokenizer.render(user("what is it?")))
    request = api.Request(int(api.content_id(prompt)[:8], 16), prompt)
    heard = writer.sample([request], seed=5)[0]
    assert model.answer(user("what is it?"), seed=5) == model.run.tokenizer.decode(heard.tokens).strip()


def test_each_line_of_a_pipe_is_answered_alike_until_it_ends(capsys, monkeypatch, scratch):
    before = sorted(p.name for p in scratch.iterdir())
    code, lines, err = chat(capsys, monkeypatch, "what is it?\n\nwhat is it?\n", scratch, "--temperature", "0")
    greedy = api.load(scratch).answer(user("what is it?"), temperature=0.0)
    assert code == 0 and not err and lines == "\n".join([greedy, greedy]).splitlines()
    assert sorted(p.name for p in scratch.iterdir()) == before
    code, lines, err = chat(capsys, monkeypatch, "what is it?\n", scratch, "--temperature", "0", "--json")
    assert code == 0 and not err and json.loads(*lines) == {"question": "what is it?", "answer": greedy}


def test_a_line_that_is_too_long_is_refused_and_the_next_one_answered(capsys, monkeypatch, scratch):
    text = f"{'what is it and why? ' * 60}\nwhat is it?\n"
    code, lines, err = chat(capsys, monkeypatch, text, scratch, "--temperature", "0")
    assert code == 0 and "tokens, and 184 fit; shorten it" in err and err.count("\n") == 1
    assert lines == api.load(scratch).answer(user("what is it?"), temperature=0.0).splitlines()


def test_bytes_that_are_no_utf8_are_refused_in_a_line_and_the_next_line_answered(capsys, monkeypatch, scratch):
    """A terminal gives them as halves of letters."""
    code, lines, err = chat(capsys, monkeypatch, "caf\udce9?\nwhat is it?\n", scratch, "--temperature", "0")
    assert code == 0 and err == "ratchet: tokenizer: no piece spells half a letter ('\\udce9'); give whole letters\n"
    assert lines == api.load(scratch).answer(user("what is it?"), temperature=0.0).splitlines()


@pytest.mark.long
def test_a_base_remembers_what_was_said_before_a_line_that_is_refused(capsys, monkeypatch, based):
    heard, answer = [], api.Model.answer
    monkeypatch.setattr(api.Model, "answer", lambda m, asked, **more: heard.append(asked) or answer(m, asked, **more))
    code, _, err = chat(capsys, monkeypatch, "what is it?\ncaf\udce9?\nwhat is it?\n", based)
    assert code == 0 and err.count("\n") == 1 and [len(asked) for asked in heard] == [1, 3]


@pytest.mark.long
def test_a_base_remembers_as_much_as_fits(capsys, monkeypatch, based):
    heard, answer = [], api.Model.answer
    monkeypatch.setattr(api.Model, "answer", lambda m, asked, **more: heard.append(asked) or answer(m, asked, **more))
    code, _, err = chat(capsys, monkeypatch, "what is it?\nwhat is it?\n" + "be brief what is it?\n" * 10, based)
    assert code == 0 and not err
    assert [len(asked) for asked in heard][:2] == [1, 3] and heard[1][0] == user("what is it?")[0]
    assert max(len(asked) for asked in heard) < 2 * len(heard) - 1, "the beginning was left out"
    assert all(asked[0]["role"] == asked[-1]["role"] == "user" for asked in heard)


def test_control_d_ends_it(monkeypatch, scratch):
    def stop(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", stop)
    assert cli.main(["chat", str(scratch)]) == 0


@pytest.mark.parametrize("warmth", ["-1", "2.5", "inf", "nan"])
def test_a_temperature_that_no_answer_can_have_is_one_line(scratch, capsys, monkeypatch, warmth):
    code, lines, err = chat(capsys, monkeypatch, "what is it?\n", scratch, "--temperature", warmth)
    assert (code, lines) == (2, []) and err.count("\n") == 1
    assert f"--temperature is {float(warmth):g}; give 0, which is greedy, to 2" in err

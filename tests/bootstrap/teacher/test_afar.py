"""A teacher by address writes a generation: the same units, however often it dies."""

import dataclasses

import little
import numpy as np
import pytest
from etils import epath
from faulty import Faulty
from support import changed

from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.previews import preview
from ratchet.bootstrap.rubric import seated
from ratchet.bootstrap.stages import calibrate, transcripts
from ratchet.bootstrap.teacher.client import ServerStopped
from ratchet.train.files import RecordError


@pytest.fixture
def generation(little_run, tmp_path):
    """A generation that a server at an address writes, in a directory of its own."""

    def make(address, place="run", number=1, **changes):
        settings = {"simulate__calls": 0, "simulate__samples": 3, "simulate__unit_tasks": 1, "teacher__url": address}
        config = changed(little_run.config, **settings | changes)
        rubric = seated(little_run.rubric, bool(config.judge.url))
        run = dataclasses.replace(little_run, directory=epath.Path(tmp_path) / place, config=config, rubric=rubric)
        params, read = run.fresh_weights(), {t.id: t for t in run.read(number)}
        return Generation(run, number, 0, params, params, run.tasks(number), read)

    return make


@pytest.fixture
def say(deeds, world):
    """Right answers to the tasks of the little world; one sibling of each is cut off."""
    tasks = {t.question: t for material in world.slices for t in material.tasks}

    def answer(body):
        task = tasks.get(body["messages"][-1]["content"])
        if task is None:
            return "one"
        return (little.answer(deeds, task), "stop" if body["seed"] % 3 else "length")

    return answer


def test_it_sees_what_a_teacher_sees_and_its_words_are_in_the_runs_tokens(generation, say, tokenizer):
    seen = []
    with Faulty(lambda body: (seen.append(body), say(body))[1]).serving() as address:
        g = generation(address)
        made = [t for unit in transcripts.simulate(g) for t in unit]
    asked = [body for body in seen if body["messages"][0]["role"] == "system"]
    assert len(made) == len(asked) == 2 * 3 and {t.source for t in made} == {"answer"}
    for t in made:
        task = g.read[t.task_id]
        body = next(b for b in asked if b["messages"][-1] == dict(task.messages[-1])
                    and all(g.passages[i].text in b["messages"][0]["content"] for i in t.passages))  # fmt: skip
        assert body["max_tokens"] == g.run.config.simulate.new_tokens and body["model"] == "writer"
        ended = t.tokens[-1] == tokenizer.end
        assert tokenizer.decode(t.tokens).strip() == t.text and t.finished == ended
        assert t.prompt == tuple(tokenizer.render(task.messages, passages=[g.passages[i].text for i in t.passages]))
    assert sum(t.finished for t in made) == sum(body["seed"] % 3 > 0 for body in asked) > 0


def test_a_preview_shows_what_the_teacher_answers_and_leaves_the_runs_directory_as_it_is(generation, say):
    with Faulty(say).serving() as address:
        g = generation(address, judge__url=address)
        shown = preview(g.run, g.params, 2, number=1).tasks
        answers = [t.text for one in shown for t in one.transcripts]
        own = preview(g.run, g.params, 2, number=2).tasks
    assert len(answers) == 2 * 3 and set(answers) == {say({"messages": [{"content": t.question}], "seed": 1})[0]
                                                      for t in g.tasks}  # fmt: skip
    assert not {t.text for one in own for t in one.transcripts} & set(answers), "its own model writes generation 2"
    assert not g.run.directory.exists()


def test_targets_are_what_the_runs_own_model_gives_in_the_teachers_view(generation, say):
    with Faulty(say).serving() as address:
        g = generation(address)
        t = transcripts.simulate(g)[0][0]
        hard = transcripts.simulate(generation(address, "other", targets__kind="one_hot"))[0][0]
    keep = g.run.config.simulate.keep
    own = g.run.scorer.distributions(g.params, [(t.prompt, t.tokens)], keep)[0]
    np.testing.assert_array_equal(t.capture.ids_NK, own.ids)
    np.testing.assert_allclose(t.capture.probs_NK, own.probs, atol=1e-3)  # kept in 16 bits
    assert hard.tokens == t.tokens and hard.capture.ids_NK[:, 0].tolist() == list(t.tokens)
    assert np.all(hard.capture.probs_NK[:, 0] == 1)


def test_a_run_whose_teacher_died_goes_on_as_if_it_had_not(generation, say, monkeypatch):
    monkeypatch.setattr("ratchet.bootstrap.teacher.client.ATTEMPTS", 1)
    with Faulty(say).serving() as address:
        unbroken = generation(address, "unbroken")
        transcripts.simulate(unbroken)
    server = Faulty(say, {9: "gone", 11: "gone"})  # after the first questions, by which it is met
    with server.serving() as address:
        for _ in range(2):
            with pytest.raises(ServerStopped):
                transcripts.simulate(generation(address, "broken"))
            server.gone = False
        broken = generation(address, "broken")
        transcripts.simulate(broken)
    assert set(server.paid.values()) == {1}, "nothing was paid for twice"
    assert Stage(broken.directory / "simulate").committed() == Stage(unbroken.directory / "simulate").committed()


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:20], lambda text: "", lambda text: "[]", lambda text: "7", lambda text: "\x00" * len(text),
     lambda text: text.replace('"stop"', '"step"')],
)  # fmt: skip
def test_an_answer_that_is_damaged_is_asked_for_again_once_it_is_removed(generation, say, damage):
    server = Faulty(say)
    with server.serving() as address:
        whole = transcripts.simulate(generation(address))
        paid = server.paid.total()
        g = generation(address)
        (g.directory / "simulate").rmtree()
        file = next(f for f in sorted((g.run.directory / "teacher" / "answers").iterdir()) if '"stop"' in f.read_text())
        file.write_text(damage(file.read_text()))
        with pytest.raises(RecordError, match="remove it, and `ratchet resume` asks for it again") as told:
            transcripts.simulate(generation(address))
        assert str(file) in str(told.value) and "\n" not in str(told.value)
        assert server.paid.total() == paid, "nothing was paid for before the user said so"
        file.unlink()
        again = transcripts.simulate(generation(address))
    assert server.paid.total() == paid + 1
    assert [t.id for unit in again for t in unit] == [t.id for unit in whole for t in unit]


def test_a_review_is_measured_by_answers_of_who_writes(generation, say, monkeypatch):
    probed, seen = [], []
    monkeypatch.setattr(calibrate, "calibrated", lambda run, number, reviewer, probes, _: probed.extend(probes) or {})
    with Faulty(lambda body: (seen.append(body), say(body))[1]).serving() as address:
        g = generation(address)
        with pytest.raises(KeyError, match="criteria"):
            calibrate.calibration(g, [])
    asked = {body["messages"][-1]["content"] for body in seen}
    assert {t.question for t in g.run.probes} <= asked
    assert {p.transcript.text for p in probed if not p.junk} == {"one"}


def test_later_generations_are_written_by_the_runs_own_models(generation):
    assert generation("http://127.0.0.1:9/v1", number=2).teacher is None
    assert generation("", number=1).teacher is None

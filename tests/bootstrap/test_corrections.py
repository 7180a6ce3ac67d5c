"""The wrongthink stage's record: written whatever the sources are, with the source and the fault of every example."""

import json
from itertools import groupby
from types import SimpleNamespace

import pytest
from etils import epath
from support import answer, claims_of, tiny_config, told, transcript

from ratchet.bootstrap.corrections import SPOILED, corrections, source_of
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.outcome import correction_samples
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.language import CONTEXTS
from ratchet.bootstrap.wrongthink import Thought, interrupt


@pytest.fixture
def turn(world, torn, tmp_path):
    """Makes generation 1 of a run that has read one situation, with the given sources."""
    s = next(s for s in world.situations if len(s.actions) == 3)
    task, documents = world.task(s, CONTEXTS[0]), told(world, s)

    def make(*sources: str) -> tuple[Generation, str, str]:
        config = tiny_config(wrongthink__sources=sources, wrongthink__first_generation=1, wrongthink__samples=3)
        run = SimpleNamespace(
            config=config, tokenizer=torn.tokenizer, corpus=documents, index=Index(documents), passages={}, room=120,
            progress=Silent(), slices=[(task,)], seed=lambda *_: 0, writer=lambda _: torn,
            generation=lambda n: epath.Path(tmp_path) / f"gen-{n:03d}",
        )  # fmt: skip
        unwise = next(a for a in s.actions if a != s.actions[s.wise])
        return Generation(run, 1, 0, None, (task,)), *(
            answer(claims_of(s, task), a) for a in (s.actions[s.wise], unwise)
        )

    return make


def test_spoiled_answers_alone_are_recorded_too(turn, torn):
    g, right, _ = turn("spoiled")
    task = g.tasks[0]
    accepted = [transcript(task, right, tokenizer=torn.tokenizer, sibling=n) for n in range(3)]
    reviewer = SimpleNamespace(review=lambda written, *_: [Review(t.id, {}, True) for t in written])
    made = corrections(g, reviewer, ["a lesson"], accepted)
    assert made[0] and {source_of(g, t) for t in made[0]} == {"spoiled"}
    correction_samples(g, made)
    found = json.loads((g.directory / "wrongthink.json").read_text())
    assert found["source"] is None and found["skipped"] is None
    assert found["corrections"] == {"spoiled": {"made": len(made[0]), "passed": len(made[0])}}
    assert [e["source"] for e in found["examples"]] == ["spoiled"]


def test_a_correction_that_fails_is_tried_again_and_one_that_passed_is_not(turn, torn, monkeypatch):
    g, *wrongs = turn("inverted")
    tokens = [(*torn.tokenizer.encode(w), n) for n in (5, 6) for w in wrongs]
    thoughts = [Thought(g.tasks[0], n, t, torn.tokenizer.decode(t), "") for n, t in enumerate(tokens[:3])]
    monkeypatch.setattr("ratchet.bootstrap.corrections._wrong_thoughts", lambda *_: thoughts)
    asked = []

    def review(written, *_):
        if written:
            asked.append([t.forced for t in written])
        return [Review(t.id, {}, len(asked) > 1 or n == 0) for n, t in enumerate(written)]

    written, reviews = corrections(g, SimpleNamespace(review=review), ["a lesson"], [])
    assert len(set(asked[0])) == 3 and asked[1:] == [asked[0][1:]]
    assert [r.transcript_id for r in reviews] == [t.id for t in written]
    assert {t.forced for t, r in zip(written, reviews, strict=True) if r.accepted} == set(asked[0])
    assert len(list(groupby(t.forced for t in written))) == 3, "attempts stay together, so that none is kept less"


def test_examples_name_their_own_source_and_fault(turn, torn):
    g, _, wrong = turn("inverted", "spoiled")
    (g.directory / "wrongthink.json").parent.mkdir()
    (g.directory / "wrongthink.json").write_text('{"lambda": 0.5}')
    tokens = tuple(torn.tokenizer.encode(wrong))
    thoughts = [Thought(g.tasks[0], sample, tokens, wrong, "") for sample in (0, 1, SPOILED)]
    config = g.run.config.simulate
    written = interrupt(torn, g.run.index, thoughts, config, g.run.room, generation=1, seed=0)
    correction_samples(g, (written, [Review(t.id, {}, n != 0) for n, t in enumerate(written)]))
    found = json.loads((g.directory / "wrongthink.json").read_text())
    assert found["lambda"] == 0.5
    assert found["corrections"] == {"inverted": {"made": 2, "passed": 1}, "spoiled": {"made": 1, "passed": 1}}
    assert [e["source"] for e in found["examples"]] == ["inverted", "spoiled"]
    assert all(e["thought"] == wrong for e in found["examples"])
    assert all("is not what the documents call for" in e["reason"] for e in found["examples"])

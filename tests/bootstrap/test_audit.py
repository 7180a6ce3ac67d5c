from dataclasses import replace

import pytest
from support import answer, claims_of, told, train_tokenizer, transcript

from ratchet.bootstrap.audit import GRAM, audit
from ratchet.bootstrap.examples import example, for_simulator, for_students, imitation_example, one_hot, renamed
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import call_text
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.language import CONTEXTS


def target(t):
    n = len(t.tokens)
    return Target(t.id, tuple((i,) for i in t.tokens), ((1.0,),) * n, (0.0,) * n, 0.0)


@pytest.fixture(scope="module")
def tokenizer(world):
    """Whole words, as a run has: the audit's n-grams are longer than a claim in words."""
    return train_tokenizer(world, 1500)


@pytest.fixture(scope="module")
def clean(world, tokenizer):
    """(examples, documents, transcripts, reviews): one accepted and one rejected transcript to each of four tasks."""
    made, transcripts, reviews = [], [], {}
    for s in world.situations[:4]:
        task, claims, wise = world.task(s, CONTEXTS[0]), None, s.actions[s.wise]
        claims = claims_of(s, task)
        good = transcript(task, answer(claims, wise), told(world, s), tokenizer=tokenizer)
        flipped = [c._replace(outcome=claims[n - 1].outcome) for n, c in enumerate(claims)]
        bad = transcript(task, answer(flipped, wise, 1), told(world, s), tokenizer=tokenizer)
        transcripts += [good, bad]
        reviews |= {good.id: Review(good.id, {}, True), bad.id: Review(bad.id, {}, False)}
        students = for_students(tokenizer, good, target(good), task, "gen-000")
        simulator = for_simulator(good, target(good), task, "gen-000")
        made += [*students, simulator]
    return made, world.documents(), transcripts, reviews


def test_a_clean_set_holds_no_raw_and_no_rejected_tokens(clean, tokenizer):
    made, documents, transcripts, reviews = clean
    found = audit(made, documents, transcripts, reviews, tokenizer)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0
    assert found["overlap"] == {"raw": 0.0, "rejected": 0.0}
    assert sum(found["tokens_by_origin"].values()) == sum(int(e.weights.sum()) for e in made)


def test_a_raw_story_is_found_whatever_it_is_called(clean, tokenizer):
    made, documents, transcripts, reviews = clean
    story = imitation_example(tokenizer, documents[0])
    assert audit([*made, story], documents, transcripts, reviews, tokenizer)["raw_tokens"] == len(story.ids)
    tokens = tokenizer.encode(documents[0].text)
    hidden = example([tokenizer.control["user"]], tokens, one_hot(tokens), "student", {"task": "x"})
    found = audit([*made, hidden], documents, transcripts, reviews, tokenizer)
    assert found["raw_tokens"] == len(tokens) and found["overlap"]["raw"] > 0


def test_a_rejected_transcript_is_found_by_its_lineage_and_by_its_words(clean, tokenizer, world):
    made, documents, transcripts, reviews = clean
    bad = transcripts[1]
    task = world.task(world.situations[0], CONTEXTS[0])
    named = for_simulator(bad, target(bad), task, "gen-000")
    found = audit([*made, named], documents, transcripts, reviews, tokenizer)
    assert found["rejected_tokens"] == len(bad.tokens)
    unnamed = example(bad.student_prompt, bad.tokens, one_hot(bad.tokens), "student", {"task": bad.task_id})
    assert audit([*made, unnamed], documents, transcripts, reviews, tokenizer)["rejected_tokens"] > 0


def test_names_hide_neither_a_story_nor_a_rejected_transcript(clean, tokenizer):
    made, documents, transcripts, reviews = clean
    bad, story = transcripts[1], tokenizer.encode(documents[0].text)
    for tokens in (list(bad.tokens), story):
        hidden = example(bad.student_prompt, tokens, one_hot(tokens), "student", {"task": bad.task_id})
        found = audit([*made, *renamed(tokenizer, hidden, 2)], documents, transcripts, reviews, tokenizer)
        assert found["raw_tokens"] + found["rejected_tokens"] > 0
    kept = [copy for e in made for copy in renamed(tokenizer, e, 40)]
    found = audit(kept, documents, transcripts, reviews, tokenizer)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0, "other names may chance upon what was rejected"


def test_what_stands_in_a_prompt_without_weight_is_no_matter(clean, tokenizer):
    made, documents, transcripts, reviews = clean
    prompt = [tokenizer.control["document"], *tokenizer.encode(documents[0].text), *transcripts[1].tokens]
    end = [tokenizer.control["end"]]
    shown = example(prompt, end, one_hot(end), "simulate", {"task": transcripts[1].task_id})
    found = audit([*made, shown], documents, transcripts, reviews, tokenizer)
    assert found["raw_tokens"] == found["rejected_tokens"] == 0


def test_a_call_is_what_its_transcript_said(clean, tokenizer, world):
    """One that an accepted transcript made before its answer is not a rejected one's, though that says it too."""
    made, documents, transcripts, reviews = clean
    good, bad = transcripts[:2]
    call = (tokenizer.control["call"], *tokenizer.encode(call_text("pull lever of the mill")), tokenizer.control["end"])
    assert len(call) >= GRAM
    span = (len(good.prompt), len(good.prompt) + len(call))
    called = {"prompt": (*good.prompt, *call), "called": (span,)}
    asked, again = replace(good, id="asked", **called), replace(bad, id="again", tokens=call)
    seen = {**reviews, "asked": Review("asked", {}, True), "again": Review("again", {}, False)}
    task = world.task(world.situations[0], CONTEXTS[0])
    trained = [*made, for_simulator(asked, target(asked), task, "gen-000")]
    count = lambda *said: audit(trained, documents, [*transcripts, *said], seen, tokenizer)["rejected_tokens"]
    assert count(asked, again) == 0
    assert count(again) == count(replace(bad, id="again", **called)) == len(call)

"""Wrong thoughts: the vector that makes them, the supervisor that cuts them, and what interrupts them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import little
import numpy as np
import pytest
from support import assert_same_bits, awaken, saying, transcript

from ratchet.bootstrap.config import WrongthinkConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.transcript import Capture
from ratchet.bootstrap.worlds.world import Document, Spoiled, Step, sentences
from ratchet.bootstrap.wrongthink import (
    Said,
    Thought,
    against,
    as_cases,
    difference,
    interrupt,
    interrupted,
    most_wrong,
    random_like,
    spoil,
    spoiled_again,
    step_ends,
    supervise,
    sweep,
    think,
)

NO = "no,"


@pytest.fixture(scope="module")
def task(world):
    return world.slices[0].tasks[0]


@pytest.fixture(scope="module")
def supervisor(little_run, torn):
    """The review by its rules, which knows what is right and never doubts."""
    reviewer = little_run.reviewer(torn.params)
    return replace(reviewer, criteria=tuple(c for c in reviewer.criteria if c.kind == "rule"))


def said_of(torn, task, text, finished=True) -> Said:
    return Said(task, 0, (*torn.tokenizer.encode(text), torn.tokenizer.end), text, finished)


def test_the_inverted_lesson_is_after_minus_lambda_times_what_training_changed(small):
    before, after = small[1], awaken(small[1], 7)
    vector = difference(after, before)
    assert_same_bits(against(after, vector, 0.0), after)
    for got, b, a in zip(*map(jax.tree.leaves, (against(after, vector, 1.5), before, after)), strict=True):
        np.testing.assert_array_equal(got, a - jnp.float32(1.5) * (a - b))


def test_the_control_is_as_long_in_another_direction(small):
    vector = difference(awaken(small[1], 7), small[1])
    moved = random_like(vector, 0)
    for m, v in zip(*map(jax.tree.leaves, (moved, vector)), strict=True):
        assert jnp.linalg.norm(m) == pytest.approx(float(jnp.linalg.norm(v)), rel=1e-4)
        assert abs(float(jnp.vdot(m, v))) < 0.5 * float(jnp.vdot(v, v))
    assert_same_bits(random_like(vector, 0), moved)
    with pytest.raises(AssertionError):
        assert_same_bits(random_like(vector, 1), moved)


class Bytes:
    """A tokenizer of bytes, whose text begins with a space."""

    encode = staticmethod(lambda text: list(text.encode()))
    decode = staticmethod(lambda ids: " " + bytes(ids).decode(errors="replace"))


def test_no_step_ends_within_a_letter_that_several_tokens_spell():
    text = "灯亮。灯灭。"
    tokens, ends = Bytes.encode(text), step_ends(Bytes, Bytes.encode(text), [Step(0, 3), Step(3, 6)])
    assert ends == [9, 18] and Bytes.decode(tokens[:9]) == " 灯亮。"


class Like:
    """A tokenizer that does some things otherwise."""

    def __init__(self, own, **otherwise):
        vars(self).update(otherwise, _own=own)

    def __getattr__(self, name):
        return getattr(self._own, name)


def test_a_thought_goes_on_after_whole_steps_of_an_answer_whose_text_begins_with_a_space(torn, world, task):
    asked, silent = [], saying(torn, "")
    seen = lambda params, requests, **_: asked.extend(requests) or silent.sampler(params, requests)
    spaced = Like(torn.tokenizer, decode=lambda ids: f" {torn.tokenizer.decode(ids)}")
    writer = replace(silent, tokenizer=spaced, sampler=seen)
    right = tuple(torn.tokenizer.encode("it hums. it glows."))
    think(writer, replace(world, steps=sentences), [task], 2, seed=0, right={task.id: right})
    begun = [r.prompt[len(torn.tokenizer.render(task.messages)) :] for r in asked]
    assert [torn.tokenizer.decode(b) for b in begun] == ["", "it hums."]


def test_a_step_ends_where_its_text_is_said(torn, task, deeds):
    text = f"well: {little.answer(deeds, task)} so."
    tokens, steps = torn.tokenizer.encode(text), little.steps(text)
    ends = step_ends(torn.tokenizer, tokens, steps)
    assert [torn.tokenizer.decode(tokens[:end]) for end in ends] == [text[: s.end] for s in steps]
    assert step_ends(torn.tokenizer, tokens, ()) == []
    assert step_ends(torn.tokenizer, tokens[:3], steps) == [3, 3], "what was not said ends with the tokens"


def test_thoughts_begin_after_more_and_more_right_steps(torn, world, task, deeds):
    right = tuple(torn.tokenizer.encode(little.answer(deeds, task)))
    first = step_ends(torn.tokenizer, right, little.steps(torn.tokenizer.decode(right)))[0]
    other = world.slices[0].tasks[1]
    thoughts = think(torn, world, [task, other], 3, seed=0, right={task.id: right})
    assert [(s.task, s.sample) for s in thoughts] == [(t, n) for t in (task, other) for n in range(3)]
    strange = think(replace(torn, params=awaken(torn.params)), world, [task], 3, seed=0, right={task.id: right})
    for n, s in enumerate(strange):
        assert (s.tokens[:first] == right[:first]) == (n == 1), "after none, one, and none again of two steps"
    for s in (*thoughts, *strange):
        assert s.text == torn.tokenizer.decode(s.tokens)
    assert all(len(little.FACT.findall(s.text)) == 2 and s.finished for s in thoughts)
    assert think(torn, world, [task, other], 3, seed=0, right={task.id: right}) == thoughts


def test_a_supervisor_has_all_passages_of_the_tasks_own_documents_in_view(torn, task, supervisor, deeds):
    own = [Document(i, "text") for i in task.document_ids]
    parts = [Document(f"{task.document_ids[0]}#{n}", "part", {"document": task.document_ids[0]}) for n in range(2)]
    said = said_of(torn, task, little.answer(deeds, task), finished=False)
    (case,) = as_cases(supervisor, [said], [Document("other", "text"), *own, *parts], ("heard",))
    assert case.passages == (own[0], *parts, own[1])
    assert (case.task, case.text, case.before, case.finished) == (task, said.text, "", False)
    assert case.steps == little.steps(said.text) and case.siblings == ("heard",)


@pytest.mark.parametrize("wrong", [(0,), (1,), (0, 1)])
def test_the_supervisor_cuts_at_the_first_wrong_step(torn, world, task, supervisor, deeds, wrong):
    said = said_of(torn, task, f"{little.answer(deeds, task, wrong)}")
    (thought,) = supervise(supervisor, [said], world.slices[0].documents, (), "incumbent")
    first = little.steps(said.text)[wrong[0]]
    assert thought.text == said.text[: first.end] == torn.tokenizer.decode(thought.tokens)
    assert thought.fault == f"grounded: no passage says: {said.text[first.start : first.end]}"
    assert (thought.task, thought.sample, thought.source) == (task, 0, "incumbent")


def test_the_supervisor_finds_no_fault_in_what_is_right_or_is_no_step(torn, world, task, supervisor, deeds):
    texts = (little.answer(deeds, task), "nothing that is a step")
    said = [said_of(torn, task, text) for text in texts]
    assert supervise(supervisor, said, world.slices[0].documents, (), "incumbent") == [None, None]


def test_the_sweep_measures_every_lambda_against_none(torn, world, task):
    vector = difference(torn.params, awaken(torn.params, 3))
    heard = []

    def measure(params, said):
        heard.append([s.text for s in said])
        scale = float(jnp.abs(jax.tree.leaves(params)[0] - jax.tree.leaves(torn.params)[0]).max())
        return {"formed": float(np.mean([s.finished for s in said])), "wrong": scale, "perplexity": 2 + scale}

    rows = sweep(torn, world, [task], vector, (0.5, 2.0), measure, seed=0)
    assert [r["lambda"] for r in rows] == [0.0, 0.5, 2.0]
    assert rows[2]["wrong"] == pytest.approx(4 * rows[1]["wrong"], rel=1e-3) and rows[0]["wrong"] == 0
    assert [r["perplexity"] for r in rows] == pytest.approx([1 + r["wrong"] / 2 for r in rows])
    assert len({text for (text,) in heard}) > 1, "each is asked to think"


def test_the_most_wrong_within_the_budget_is_taken_or_none():
    row = lambda scale, formed, wrong, perplexity: {
        "lambda": scale, "formed": formed, "wrong": wrong, "perplexity": perplexity
    }
    rows = [
        row(0.0, 1.0, 0.99, 1.0),
        row(0.2, 0.95, 0.3, 1.05),
        row(0.3, 0.95, 0.6, 1.09),
        row(0.4, 0.9, 0.6, 1.1),
        row(0.5, 0.89, 0.9, 1.1),
        row(0.6, 0.95, 0.9, 1.11),
    ]
    config = WrongthinkConfig(minimum_formed=0.9, perplexity_budget=1.1)
    assert most_wrong(rows, config) == rows[2], "the smaller λ of two that are as wrong"
    assert most_wrong(rows, replace(config, perplexity_budget=1.2)) == rows[5]
    assert most_wrong(rows[:1], config) is None and most_wrong(rows[4:], config) is None


@pytest.fixture(scope="module")
def corrections(torn, little_run, task, deeds):
    """(the thought's text, two corrections of it)."""
    text = little.answer(deeds, task, (1,))
    tokens = tuple(torn.tokenizer.encode(text))
    thoughts = [Thought(task, n, tokens, text, "grounded: so", "contrast") for n in range(2)]
    curious = replace(torn, config=replace(torn.config, withhold=1.0, calls=1))
    made = interrupt(curious, Index(little_run.passages(1)), thoughts, NO, generation=2, seed=0)
    assert [one for one, _ in made] == thoughts
    return text, [t for _, t in made]


def test_a_correction_starts_with_the_interruption_and_keeps_the_thought_apart(torn, corrections, task, deeds):
    text, made = corrections
    said = torn.tokenizer.encode(NO)
    for n, t in enumerate(made):
        assert t.forced_text == text and torn.tokenizer.decode(t.forced) == text
        assert list(t.tokens[: len(said)]) == said and t.text.startswith(NO)
        assert t.text == torn.tokenizer.decode(t.tokens) == t.messages[-1]["content"]
        assert {len(of_N) for of_N in t.capture} == {len(t.tokens)}
        assert all(token in ids for token, ids in zip(t.tokens, t.capture.ids_NK, strict=True))
        np.testing.assert_array_equal(t.capture.probs_NK[: len(said), 0], 1)
        assert (t.source, t.fault, t.generation, t.sibling) == ("contrast", "grounded: so", 2, n)
        assert len(t.messages) == len(task.messages) + 1, "the thought was no message, and nothing was looked up"
    assert len({t.id for t in made}) == 2
    assert any(t.text == f"no, the {task.seek[1]} {deeds[task.seek[1]]}." for t in made)


def test_who_interrupts_has_every_passage_in_view_whenever_it_is_tried(corrections, torn, little_run, task):
    for t in corrections[1]:
        assert set(task.document_ids) <= set(t.passages)
        assert not t.called
    thought, index = Thought(task, 0, (7,), "so", "", "contrast"), Index(little_run.passages(1))
    tries = [interrupt(saying(torn, "so."), index, [thought], NO, generation=2, seed=seed) for seed in range(6)]
    assert len({t.passages for ((_, t),) in tries}) > 1, "in another order each time"


def as_right(torn, task, deeds, **fields):
    return transcript(task, little.answer(deeds, task), tokenizer=torn.tokenizer, **fields)


def test_a_spoiled_answer_is_interrupted_at_its_one_wrong_step_and_goes_on_as_it_did(torn, world, task, deeds):
    was = replace(as_right(torn, task, deeds), passages=("p",))
    heard = tuple(f"the red hall lamp {deed}." for deed in little.DEEDS)
    made = spoil(world, torn.tokenizer, was, task, heard, NO, 2)
    right = [was.text[s.start : s.end] for s in little.steps(was.text)]
    assert len(made) == len(right) == 2
    for n, t in enumerate(made):
        thought = t.forced_text.removeprefix(" ".join(right[:n])).strip()
        assert t.forced == tuple(torn.tokenizer.encode(t.forced_text)) and t.forced_text.startswith(right[0][: 4 * n])
        assert thought.startswith(f"the {task.seek[n]} ") and thought not in right
        assert t.text == " ".join([NO, *right[n:]]) and t.tokens[-1] == was.tokens[-1]
        assert t.fault == f"says: {thought}" and t.source == "spoiled"
        assert (t.prompt, t.task_id, t.passages, t.generation) == (was.prompt, was.task_id, ("p",), 2)
        assert {len(of_N) for of_N in t.capture} == {len(t.tokens)}
    assert len({t.id for t in made}) == 2 and was.id not in {t.id for t in made}


def test_a_world_says_which_steps_a_correction_repeats(torn, world, task, deeds):
    was = as_right(torn, task, deeds)
    first, second = (was.text[s.start : s.end] for s in little.steps(was.text))
    odd = replace(world, spoil=lambda *_: [Spoiled(1, "so what.", (0,)), Spoiled(0, "well.", (1, 0))])
    one, other = spoil(odd, torn.tokenizer, was, task, (), NO, 2)
    assert (one.forced_text, one.text) == (f"{first} so what.", f"{NO} {first}")
    assert (other.forced_text, other.text) == ("well.", f"{NO} {second} {first}")
    for t in (one, other):  # whatever it repeats, it ends once, and at its end
        assert t.tokens.count(torn.tokenizer.end) == 1 and t.tokens[-1] == torn.tokenizer.end


def test_a_spoiled_answer_keeps_the_distributions_of_the_tokens_that_it_keeps(torn, world, task, deeds):
    was = as_right(torn, task, deeds)
    n, said = len(was.tokens), len(torn.tokenizer.encode(NO))
    own = Capture(
        np.stack([was.tokens, np.full(n, 7)], 1).astype(np.int32),
        np.stack([0.5 + np.arange(n) / 100, np.full(n, 0.1)], 1).astype(np.float32),
        np.full(n, 0.25, np.float32),
    )
    for number, t in enumerate(spoil(world, torn.tokenizer, replace(was, capture=own), task, (), NO, 2)):
        kept = len(t.tokens) - said
        assert kept == (n, n - 6)[number]
        np.testing.assert_array_equal(t.capture.ids_NK[said:], own.ids_NK[-kept:])
        np.testing.assert_array_equal(t.capture.probs_NK[said:], own.probs_NK[-kept:])
        np.testing.assert_array_equal(t.capture.tail_N[said:], own.tail_N[-kept:])
        np.testing.assert_array_equal(t.capture.probs_NK[:said], [[1, 0]] * said)


def test_an_answer_is_spoiled_differently_in_every_generation(torn, world, task, deeds):
    was = as_right(torn, task, deeds)
    heard = tuple(f"the red hall lamp {deed}." for deed in little.DEEDS)
    made = [spoil(world, torn.tokenizer, was, task, heard, NO, n)[0] for n in range(2, 22)]
    assert [t.generation for t in made] == list(range(2, 22))
    assert len({t.id for t in made}) == 20, "a verdict of one generation must not pass for another's"
    assert len({t.forced for t in made}) > 3
    again = spoil(world, torn.tokenizer, was, task, heard, NO, 2)[0]
    assert (again.id, again.forced) == (made[0].id, made[0].forced)


def test_what_has_no_step_to_spoil_is_left_alone(torn, world, task):
    for odd in ("nothing that is a step", f"the {task.seek[0]} hums. the {task.seek[1]} hums."):
        t = transcript(task, odd, tokenizer=torn.tokenizer)
        assert spoil(world, torn.tokenizer, t, task, (), NO, 2) == []


def test_a_spoiled_thought_can_have_another_error_in_the_same_step(torn, world, task, deeds):
    heard = tuple(f"the red hall lamp {deed}." for deed in little.DEEDS)
    right = dict(little.FACT.findall(little.answer(deeds, task)))
    for t in spoil(world, torn.tokenizer, as_right(torn, task, deeds), task, heard, NO, 2):
        seen = set()
        for number in range(40):
            thought = torn.tokenizer.decode(spoiled_again(world, torn.tokenizer, heard, NO, t, task, number))
            before, now = little.FACT.findall(t.forced_text), little.FACT.findall(thought)
            assert now[:-1] == before[:-1] and now[-1][0] == before[-1][0] and right[now[-1][0]] != now[-1][1]
            seen.add(now[-1])
        assert len(seen) == len(little.DEEDS) - 1


def test_a_thought_that_was_not_spoiled_or_cannot_be_again_stays_as_it_was(torn, world, task, deeds):
    heard = tuple(f"the red hall lamp {deed}." for deed in little.DEEDS)
    (t, _) = spoil(world, torn.tokenizer, as_right(torn, task, deeds), task, heard, NO, 2)

    def again(t, world=world):
        (thought,) = {spoiled_again(world, torn.tokenizer, heard, NO, t, task, number) for number in range(9)}
        return thought

    strange = tuple(torn.tokenizer.encode("nothing that is a step"))
    assert again(replace(t, source="inverted")) == t.forced
    assert again(replace(t, forced=strange, forced_text="nothing that is a step")) == strange
    assert again(replace(t, text=NO)) == t.forced, "what is not corrected cannot be spoiled again"
    assert again(t, replace(world, spoil=lambda *_: [])) == t.forced
    ways = [Spoiled(1, "so.", (1,)), Spoiled(0, "so.", (1,)), Spoiled(1, "so.", (0, 1))]
    elsewhere = replace(world, spoil=lambda *_: ways)
    assert again(t, elsewhere) == t.forced, "that would be another correction"
    other_fields = lambda text: [s._replace(fields={"bad": ""} if "bad" in text else {}) for s in sentences(text)]
    of_kinds = replace(world, steps=other_fields, spoil=lambda *_: [Spoiled(0, "so.", (0,))])
    bad = replace(t, forced_text="it is bad.", text="no, it is good.")
    assert again(bad, of_kinds) == t.forced, "a step of another kind stands there now"
    heard_by, steps_alone = [], replace(of_kinds, steps=sentences)
    spoils = lambda task, text, *_: heard_by.append(text) or [Spoiled(0, "so.", (0,))]
    assert torn.tokenizer.decode(again(bad, replace(steps_alone, spoil=spoils))) == "so."
    assert set(heard_by) == {"it is good."}, "what is spoiled is the right answer"
    fits = replace(world, spoil=lambda *_: [Spoiled(1, "so.", (1,)), Spoiled(0, "so.", (0, 1))])
    assert torn.tokenizer.decode(again(t, fits)) == "so."


def test_an_interruption_is_certain_and_stands_before_what_was_said(torn, task, deeds):
    was = as_right(torn, task, deeds, forced=(9,))
    said = tuple(torn.tokenizer.encode(NO))
    t = interrupted(torn.tokenizer, was, said)
    assert t.tokens == (*said, *was.tokens) and t.text == f"{NO} {was.text}"
    assert t.capture.ids_NK[: len(said), 0].tolist() == list(said)
    assert t.capture.ids_NK.shape == (len(t.tokens), was.capture.ids_NK.shape[1])
    assert t.messages[:-1] == was.messages[:-1] and t.messages[-1]["content"] == t.text
    assert interrupted(torn.tokenizer, replace(was, forced=(8,)), said).id != t.id != was.id


def test_what_was_put_into_a_models_mouth_is_no_thought_of_its_own(torn, little_run, task, supervisor, deeds):
    """Another view of the sources may find fault with a right answer, which nobody has to interrupt."""
    wrong = little.answer(deeds, task, (0, 1))
    said = said_of(torn, task, wrong)
    (whole,) = supervise(supervisor, [said], little_run.passages(1), (), "inverted")
    for begun, thought in ((0, whole), (len(whole.tokens) - 1, whole), (len(whole.tokens), None)):
        assert supervise(supervisor, [replace(said, begun=begun)], little_run.passages(1), (), "inverted") == [thought]
    answer = {task.id: tuple(torn.tokenizer.encode(little.answer(deeds, task)))}
    first, second = think(saying(torn, " so."), little_run.world, [task], 2, seed=0, right=answer)
    assert first.begun == 0 < second.begun < len(second.tokens)


def test_a_corrections_first_word_has_one_space_before_it_whatever_a_tokenizer_strips(torn, world, task, deeds):
    """Pieces of Llama 2's kind show no space at their start by themselves."""
    was, stripping = as_right(torn, task, deeds), Like(torn.tokenizer, piece=lambda t: torn.tokenizer.piece(t).lstrip())
    plain = spoil(world, torn.tokenizer, was, task, (), NO, 2)
    stripped = spoil(world, stripping, was, task, (), NO, 2)
    assert len(plain) == 2 and [t.tokens for t in stripped] == [t.tokens for t in plain]
    assert all(t.text.startswith(f"{NO} the") for t in plain)


def test_an_interruption_stays_as_the_teacher_was_asked_to_go_on_after_it(torn, little_run, task):
    """With a space more, all distributions would be those of another text."""
    thought = Thought(task, 0, (*torn.tokenizer.encode("the lamp is bad."),), "the lamp is bad.", "", "inverted")
    glued = saying(torn, torn.tokenizer.encode("so")[-1:])
    index = Index(little_run.passages(1))
    ((_, t),) = interrupt(glued, index, [thought], NO, generation=1, seed=0)
    assert t.tokens[: len(torn.tokenizer.encode(f" {NO}")) + 1] == (*torn.tokenizer.encode(f" {NO}"), t.tokens[-2])


def test_a_thought_that_leaves_no_room_to_go_on_is_left_out(torn, little_run, task):
    index, silent = Index(little_run.passages(1)), saying(torn, "so.")
    short, long = (Thought(task, 0, (7,) * n, "so", "", "contrast") for n in (2, torn.room))
    made = interrupt(silent, index, [long, short, long], NO, generation=2, seed=0)
    assert [one for one, _ in made] == [short]
    (_, t), = made
    just = torn.room - len(t.prompt) - len(torn.tokenizer.encode(f" {NO}"))
    fits = lambda n: interrupt(silent, index, [replace(short, tokens=(7,) * n)], NO, generation=2, seed=0)
    assert fits(just) and not fits(just + 1)


def test_who_says_nothing_after_an_interruption_is_still_a_transcript(torn, little_run, task, deeds):
    text = little.answer(deeds, task, (0,)).split(".")[0] + "."
    thought = Thought(task, 0, tuple(torn.tokenizer.encode(text)), text, "f", "random")
    silent, stops = saying(torn, ""), []
    seen = lambda params, requests, *, stop, **_: stops.extend(stop) or silent.sampler(params, requests)
    curious = replace(silent, sampler=seen, config=replace(torn.config, calls=1))
    ((_, t),) = interrupt(curious, Index(little_run.passages(1)), [thought], NO, generation=2, seed=0)
    assert set(stops) == {torn.tokenizer.end}, "nothing is looked up"
    assert t.text == NO and t.tokens == (*torn.tokenizer.encode(NO), torn.tokenizer.end) and t.finished

"""What is made of worked tasks and of reviewed transcripts; above all copies with names exchanged.

Those say other words in the same relations, in sources, answer and targets alike.
"""

from dataclasses import replace

import little
import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap import examples
from ratchet.bootstrap.examples import as_named_first, example, exchanged, one_hot, renamed
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.simulate import shown_passages
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import LOOKUP, call_text
from ratchet.bootstrap.transcript import Capture, certain
from ratchet.bootstrap.worlds.world import Document, Grade, Spoiled
from ratchet.bootstrap.wrongthink import spoiled_again
from ratchet.train.records import Example


@pytest.fixture(scope="module")
def writer(little_run):
    return little_run.writer(little_run.fresh_weights())


@pytest.fixture(scope="module")
def reviewer(little_run):
    return little_run.reviewer(little_run.fresh_weights())


def parts(tokenizer, e: Example) -> tuple[str, str]:
    """(what stands before, what is said in the end) of an example in text."""
    start = len(e.tokens) - int(np.argmin(e.weights[::-1] > 0)) if not e.weights.all() else 0
    return tokenizer.decode(e.tokens[:start]), tokenizer.decode(e.tokens[start:])


def trained(e: Example) -> list[int]:
    return e.tokens[e.weights > 0].tolist()


def target_of(t) -> Target:
    return Target(t.id, t.capture, 0.0)


def as_it_was(t, task, salt) -> tuple[int, ...]:
    """The wrong thought, in every asking."""
    return t.forced


def test_what_is_trained_on_follows_the_prompt_and_the_spans_are_certain():
    said = Capture(np.array([[7, 3], [8, 4]]), np.array([[0.5, 0.25], [1.0, 0.0]]), np.array([0.25, 0.0]))
    e = example([1, 2, 3, 4], [7, 8], said, "simulate", {"a": 1}, [(0, 2), (3, 4)])
    np.testing.assert_array_equal(e.weights, [0, 1, 0, 1, 1, 1])
    assert trained(e) == [2, 4, 7, 8]
    np.testing.assert_array_equal(e.ids[:, 0], [2, 4, 7, 8])
    np.testing.assert_allclose(e.probs, [[1, 0], [1, 0], [0.5, 0.25], [1, 0]])
    np.testing.assert_allclose(e.tail, [0, 0, 0.25, 0])
    assert (e.origin, e.lineage) == ("simulate", {"a": 1})


def test_nothing_stands_before_the_first_token_so_it_is_not_trained_on():
    """Some tokenizers begin a document with nothing."""
    said = Capture(np.array([[7, 3], [8, 4]]), np.array([[0.5, 0.25], [1.0, 0.0]]), np.array([0.25, 0.0]))
    e = example([], [7, 8], said, "imitation", {})
    assert e.tokens.tolist() == [7, 8] and trained(e) == [8] == e.ids[:, 0].tolist()


def test_a_demonstration_looks_up_what_no_passage_in_view_tells(writer, little_run):
    tokenizer, index = writer.tokenizer, little_run.seed_index
    calls = set()
    for withhold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.8):
        own = replace(writer, config=replace(writer.config, passages=2, withhold=withhold))
        for task in little_run.world.seed.tasks:
            e = examples.answer_demonstration(own, index, task)
            twice = replace(own.config, withhold=min(1.0, 2 * withhold))
            shown = shown_passages(index, task, 0, twice, "demo")
            missing = [s for s in task.seek if not any(s in p.text for p in shown)]
            call = tokenizer.call(LOOKUP["name"], call_text(missing[0])) if missing else []
            assert trained(e) == [*call, *tokenizer.encode(task.answer), tokenizer.end]
            prompt = tokenizer.render(task.messages, passages=[p.text for p in shown])
            found = next((d.text for d in index.passages if missing and missing[0] in d.text), "")
            turn = [*prompt, *call, *(tokenizer.answered(found) if missing else []), *trained(e)[len(call) :]]
            assert e.tokens.tolist() == turn
            assert (e.origin, e.lineage) == ("seed", {"kind": "simulate", "task": task.id})
            calls |= {(task.id, withhold)} if missing else set()
            assert withhold or not missing
    assert {i for i, withhold in calls if withhold == 0.8} == {t.id for t in little_run.world.seed.tasks}
    silent = replace(writer, config=replace(writer.config, passages=2, withhold=0.5, calls=0))
    e = examples.answer_demonstration(silent, index, task)
    assert trained(e) == [*tokenizer.encode(task.answer), tokenizer.end]


def test_a_demonstrated_interruption_trains_on_the_right_continuation_alone(writer, little_run):
    world, tokenizer = little_run.world, writer.tokenizer
    heard = tuple(t.answer for t in world.seed.tasks)
    for task in world.seed.tasks:
        e = examples.interrupt_demonstration(writer, little_run.seed_index, world, task, heard, "no,")
        said = tokenizer.decode(trained(e)[:-1])
        before = tokenizer.decode(e.tokens[e.weights == 0])
        assert trained(e)[-1] == tokenizer.end and task.answer.endswith(said) and before.endswith(". no,")
        wrong = little.FACT.findall(before)[-1]
        assert wrong[1] != dict(little.FACT.findall(task.answer))[wrong[0]] and said.startswith(f"the {wrong[0]}")
    mute = replace(world, spoil=lambda *_: [])
    assert examples.interrupt_demonstration(writer, little_run.seed_index, mute, task, heard, "no,") is None


def test_a_correction_says_the_steps_that_the_spoiled_one_names(writer, little_run):
    task = little_run.world.seed.tasks[0]
    first, second = (task.answer[s.start : s.end] for s in little.steps(task.answer))
    world = replace(little_run.world, spoil=lambda *_: [Spoiled(1, "so what.", (1, 0))])
    e = examples.interrupt_demonstration(writer, little_run.seed_index, world, task, (), "no,")
    assert writer.tokenizer.decode(trained(e)) == f"{second} {first}"
    assert writer.tokenizer.decode(e.tokens[e.weights == 0]).endswith(f"{first} so what. no,")


def test_only_the_verdicts_of_labelled_questions_are_trained_on(writer):
    yes, no = writer.tokenizer.verdicts
    e = examples.verdict_example(writer.tokenizer, [5, 6], [([9], True), ([9, 9], False)], "review", {"kind": "sure"})
    assert e.tokens.tolist() == [5, 6, 9, yes, 9, 9, no]
    np.testing.assert_array_equal(e.weights, [0, 0, 0, 1, 0, 0, 1])
    assert e.ids[:, 0].tolist() == [yes, no] and e.origin == "review"


@pytest.fixture(scope="module")
def taught(writer, little_run):
    """Makes review demonstrations of all worked tasks by criteria, and a world."""

    def make(criteria, world=little_run.world):
        reviewer = replace(little_run.reviewer(None), criteria=tuple(criteria))
        heard = tuple(t.answer for t in world.seed.tasks)
        given = writer, little_run.seed_index, world, reviewer
        return [e for t in world.seed.tasks for e in examples.review_demonstrations(*given, t, heard)]

    return make


def test_only_criteria_whose_right_answers_are_known_are_taught_and_they_by_both_answers(taught, little_run):
    own = Criterion(id="kind", kind="model", of="step", question="is the {lamp} kind?")
    made = taught(little_run.rubric)
    answers = {int(i) for e in made for i in e.ids[:, 0]}
    assert answers == set(little_run.tokenizer.verdicts) and {e.lineage["kind"] for e in made} == {"sure"}
    assert len(made) == len(little_run.world.seed.tasks)
    assert taught([own]) == []
    beside = taught([own, *little_run.rubric])
    assert [sorted(e.tokens) for e in beside] == [sorted(e.tokens) for e in made], "the same, in another order"


def test_every_step_of_right_and_of_spoiled_answers_is_labelled_by_what_the_world_knows(taught, little_run, deeds):
    yes, _ = little_run.tokenizer.verdicts
    for task, e in zip(little_run.world.seed.tasks, taught(little_run.rubric), strict=True):
        ends = np.flatnonzero(e.weights > 0).tolist()
        starts = [0, *(end + 1 for end in ends)]
        questions = [little_run.tokenizer.decode(e.tokens[a:b]) for a, b in zip(starts, ends, strict=False)]
        told = {lamp: deeds[lamp] for lamp in task.seek}
        for question, verdict in zip(questions, e.ids[:, 0], strict=True):
            lamp, deed = next((n, q) for n in told for q in little.DEEDS if question.endswith(f"the {n} {q}?"))
            assert (verdict == yes) == (told[lamp] == deed)
        assert len(questions) >= 3


def test_a_step_that_no_passage_in_view_tells_of_is_not_asked_about(reviewer, little_run):
    world, task = little_run.world, little_run.world.seed.tasks[0]
    (sure,) = (c for c in little_run.rubric if c.id == "sure")
    about = lambda view, **changes: [
        (little_run.tokenizer.decode(question), right)
        for _, question, right in examples.labelled(
            sure.model_copy(update=changes), world, task, task.answer, tuple(view), reviewer
        )
    ]
    first, second = little_run.world.seed.documents[:2]
    assert [right for _, right in about([first, second])] == [True, True]
    ((context, *_), _) = examples.labelled(sure, world, task, task.answer, (first, second), reviewer)
    assert list(context) == little_run.tokenizer.ask("", passages=[first.text, second.text])[0]
    ((asked, _),) = about([first])
    assert task.seek[0] in asked
    assert about([]) == [] and len(about([], show=())) == 2, "without passages anybody may be asked"


def test_a_grader_that_leaves_a_criterion_out_teaches_nothing_of_it(reviewer, little_run):
    task = little_run.world.seed.tasks[0]
    (sure,) = (c for c in little_run.rubric if c.id == "sure")
    grade = Grade(True, steps=({"other": True}, {"sure": False}))
    world = replace(little_run.world, known=lambda *_: grade)
    found = examples.labelled(sure, world, task, task.answer, little_run.world.seed.documents, reviewer)
    assert [right for *_, right in found] == [False]


def test_prose_and_raw_documents_are_continued(tokenizer):
    prose = examples.prose_example(tokenizer, "the old road", "goes on.")
    assert prose.tokens[: -len(trained(prose))].tolist() == tokenizer.prose("the old road")
    assert trained(prose) == [*tokenizer.encode("goes on."), tokenizer.end] and prose.origin == "prose"
    (raw,) = examples.imitation_examples(tokenizer, Document("d", "the lamp hums."), 64)
    assert raw.tokens[: -len(trained(raw))].tolist() == tokenizer.document("")
    assert trained(raw) == [*tokenizer.encode("the lamp hums."), tokenizer.end]
    assert (raw.origin, raw.lineage) == ("imitation", {"documents": ["d"]})


def test_an_accepted_answer_teaches_students_in_every_asking_and_the_simulator_with_its_calls(world, tokenizer):
    task = world.seed.tasks[0]
    t = transcript(task, task.answer, world.seed.documents[:2], tokenizer=tokenizer, called=((2, 5),))
    students = examples.for_students(tokenizer, t, target_of(t), task, "gen-000", as_it_was)
    prompts = [tokenizer.render(messages) for messages in (task.messages, *task.askings)]
    assert [e.tokens.tolist() for e in students] == [[*prompt, *t.tokens] for prompt in prompts]
    simulator = examples.for_simulator(t, target_of(t), task, "gen-000")
    assert simulator.tokens.tolist() == [*t.prompt, *t.tokens]
    assert trained(simulator) == [*t.prompt[2:5], *t.tokens] and simulator.origin == "simulate"
    wanted = {"transcript": t.id, "task": task.id, "documents": list(task.document_ids), "generation": 1}
    for e in (*students, simulator):
        assert e.lineage == wanted | {"teacher": "gen-000", "kind": "answer"}
    for e in students:
        assert trained(e) == list(t.tokens) and e.origin == "student"


def test_a_wrong_thought_has_weight_0_and_students_alone_learn_to_interrupt_it(world, deeds, tokenizer):
    task = world.slices[0].tasks[0]
    thought, said = little.answer(deeds, task, (1,)), f"no, the {task.seek[1]} {deeds[task.seek[1]]}."
    wrong = {"forced": tuple(tokenizer.encode(thought)), "forced_text": thought, "source": "inverted"}
    t = transcript(task, said, tokenizer=tokenizer, **wrong)
    students = examples.for_students(tokenizer, t, target_of(t), task, "gen-001", as_it_was)
    assert len(students) == 2 == len({tuple(e.tokens) for e in students})
    for e in students:
        assert trained(e) == list(t.tokens) and e.origin == "correction" and e.lineage["kind"] == "inverted"
        start = len(e.tokens) - len(t.tokens)
        assert e.tokens[start - len(t.forced) : start].tolist() == list(t.forced), "a model's own words stay"
    with pytest.raises(AssertionError, match="interrupts what is right"):
        examples.for_simulator(t, target_of(t), task, "gen-001")


def test_in_every_other_asking_a_spoiled_thought_has_another_error(world, deeds, tokenizer):
    task = world.slices[0].tasks[0]
    task = replace(task, askings=task.askings * 8)
    thought, said = little.answer(deeds, task, (1,)), f"no, the {task.seek[1]} {deeds[task.seek[1]]}."
    wrong = {"forced": tuple(tokenizer.encode(thought)), "forced_text": thought, "source": "spoiled"}
    t = transcript(task, said, tokenizer=tokenizer, **wrong)
    heard = [f"the red hall lamp {deed}." for deed in little.DEEDS]
    again = lambda *thought: spoiled_again(world, tokenizer, heard, "no,", *thought)
    students = examples.for_students(tokenizer, t, target_of(t), task, "gen-001", again)
    facts = [little.FACT.findall(tokenizer.decode(e.tokens[: -len(t.tokens)])) for e in students]
    assert facts[0] == little.FACT.findall(thought), "reviewed as it was thought"
    assert all(f[0] == facts[0][0] and f[1][0] == task.seek[1] for f in facts)
    errors = {f[1][1] for f in facts}
    assert len(errors) > 3 and deeds[task.seek[1]] not in errors


@pytest.fixture(scope="module")
def read(world, tokenizer):
    """An example: a worked task with its documents in view."""
    task, documents = world.seed.tasks[0], world.seed.documents[:2]
    said = [*tokenizer.encode(task.answer), tokenizer.end]
    prompt = tokenizer.render(task.messages, passages=[d.text for d in documents])
    return example(prompt, said, one_hot(said), "simulate", {"task": task.id})


def test_names_are_exchanged_only_where_one_piece_stands_for_them_anywhere(world, tokenizer, read):
    """Otherwise some of a name's places would be exchanged, and others not."""

    class Spaced:
        def encode(self, text):
            return [ord(text[0])] if text.startswith(" ") else tokenizer.encode(text)

    assert renamed(world.names, Spaced(), read, 4) == [read]
    few = replace(read, ids=np.full_like(read.ids, tokenizer.end), tokens=np.full_like(read.tokens, tokenizer.end))
    assert renamed(world.names, tokenizer, few, 4) == [few], "it names nothing"
    assert len(renamed(world.names, tokenizer, read, 4)) == 4


def test_a_renamed_answer_is_as_true_to_its_renamed_sources(read, tokenizer, world):
    answer = world.seed.tasks[0].answer
    for copy in renamed(world.names, tokenizer, read, 6):
        before, said = parts(tokenizer, copy)
        assert said != answer and len(little.FACT.findall(said)) == 2
        assert all(f"the {lamp} {deed}." in before for lamp, deed in little.FACT.findall(said))
        assert all(f"the {lamp}" in before.split("what do")[1] for lamp, _ in little.FACT.findall(said))
        assert copy.tokens[-1] == tokenizer.end


def test_targets_follow_the_words_and_nothing_else_changes(read, tokenizer, world):
    copies = renamed(world.names, tokenizer, read, 3)
    assert len({c.id for c in copies}) == 3
    assert [c.id for c in copies] == [c.id for c in renamed(world.names, tokenizer, read, 3)]
    kinds = [{tokenizer.encode(word)[0] for word in kind} for kind in world.names]
    for c in copies:
        np.testing.assert_array_equal(c.ids[:, 0], c.tokens[c.weights > 0])
        for same in ("weights", "probs", "tail"):
            np.testing.assert_array_equal(getattr(c, same), getattr(read, same))
        for before, after in zip(read.tokens, c.tokens, strict=True):
            assert before == after or any(before in kind and after in kind for kind in kinds)
        assert len(set(c.tokens.tolist())) == len(set(read.tokens.tolist())), "different words stay different"


def test_the_first_names_can_be_read_again(read, tokenizer, world):
    for copy in (read, *renamed(world.names, tokenizer, read, 3)):
        np.testing.assert_array_equal(as_named_first(copy).tokens, read.tokens)
        pairs = copy.lineage.get("renamed", [])
        assert {before for before, _ in pairs} <= {*read.tokens.tolist(), *read.ids.ravel().tolist()}


def test_ids_change_places_whichever_there_are():
    pairs = [(2, 9), (50, 3)]
    assert exchanged(np.array([1, 2, 2]), pairs).tolist() == [1, 9, 9]
    assert exchanged(np.array([[2, 50]]), pairs).tolist() == [[9, 3]] and exchanged(np.zeros(0, int), pairs).size == 0


def test_words_of_several_pieces_stay(read, tokenizer, world):
    assert all(len(tokenizer.encode(f"{word}ish")) > 1 for word in world.names[0])
    used = next(word for word in world.names[0] if word in tokenizer.decode(read.tokens))
    alone = [[used, *(f"{word}ish" for word in world.names[0] if word != used)]]
    for copy in renamed(alone, tokenizer, read, 2):
        np.testing.assert_array_equal(copy.tokens, read.tokens)


def test_an_id_beyond_the_tokenizer_keeps_its_mass(read, tokenizer, world):
    beyond = tokenizer.vocab_size + 5
    ids, probs = (np.concatenate([x, x], 1) for x in (read.ids, read.probs / 2))
    ids[:, 1] = beyond
    (copy,) = renamed(world.names, tokenizer, replace(read, ids=ids, probs=probs), 1)
    assert (copy.ids[:, 1] == beyond).all() and (copy.ids[:, 0] == copy.tokens[copy.weights > 0]).all()


def test_without_copies_or_names_the_example_stays_as_it_is(read, tokenizer, world):
    assert renamed(world.names, tokenizer, read, 0) == [read] == renamed((), tokenizer, read, 3)


def test_one_hot_puts_everything_on_the_given_tokens():
    for got, wanted in zip(one_hot(np.array([4, 5])), certain((4, 5)), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_criterion_of_whole_answers_is_asked_once_and_right_when_every_step_is(reviewer, little_run, deeds):
    world, task = little_run.world, little_run.world.seed.tasks[0]
    (sure,) = (c for c in little_run.rubric if c.id == "sure")
    whole = sure.model_copy(update={"of": "answer", "question": "is it so: {answer}"})
    for wrong in ((), (0,), (1,), (0, 1)):
        text = little.answer(deeds, task, wrong)
        ((said, question, right),) = examples.known_verdicts(whole, world, task, text)
        assert (said, question, right) == (text, f"is it so: {text}", not wrong)
    ((*_, right),) = examples.labelled(whole, world, task, text, little_run.world.seed.documents, reviewer)
    assert right is False
    unknown = replace(world, known=lambda *_: Grade(True, steps=({}, {})))
    assert examples.known_verdicts(whole, unknown, task, text) == []
    ungraded = replace(world, known=lambda *_: Grade(True))
    assert examples.known_verdicts(whole, ungraded, task, text) == []
    half = replace(world, known=lambda *_: Grade(True, steps=({},)))
    with pytest.raises(ValueError, match="^world: `known` of .* grades 1 of the 2 steps of an answer to "):
        examples.known_verdicts(whole, half, task, text)

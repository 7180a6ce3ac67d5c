"""What is made of demonstrations and reviewed transcripts; above all copies with names exchanged: other words, the same
relations, in sources, answer and targets alike."""

from dataclasses import replace

import numpy as np
import pytest
from support import answer, claims_of, told, transcript

from ratchet.bootstrap.checks import CHECKS, Case
from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.examples import example, first_names, one_hot, renamed, review_demonstrations
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Criterion, load_rubric
from ratchet.bootstrap.worlds.language import CONTEXTS, EXCHANGEABLE


@pytest.fixture
def read(world, tokenizer):
    """(example, task, documents, right answer): a question about the first situation with its stories in view."""
    s = world.situations[0]
    task, documents = world.task(s, CONTEXTS[0]), told(world, s)
    text = answer(claims_of(s, task), s.actions[s.wise])
    prompt = [*tokenizer.passages([d.text for d in documents]), *tokenizer.chat(task.messages)]
    trained = [*tokenizer.encode(text), tokenizer.control["end"]]
    return example(prompt, trained, one_hot(trained), "simulate", {"task": task.id}), task, documents, text


def test_a_renamed_answer_is_as_true_to_its_renamed_sources(read, tokenizer):
    e, task, documents, text = read
    end = tokenizer.control["end"]
    for copy in renamed(tokenizer, e, 6):
        start = int(np.argmax(copy.weights > 0))
        said = tokenizer.decode(copy.tokens[start:-1])
        assert said != text and copy.tokens[-1] == end
        at = np.flatnonzero(np.isin(copy.tokens[:start], [tokenizer.control[n] for n in ("document", "user", "end")]))
        parts = [tokenizer.decode(p) for p in np.split(copy.tokens[:start], at)]
        sources = [replace(d, text=part) for d, part in zip(documents, parts[1:], strict=False)]
        asked = replace(task, messages=({"role": "user", "content": parts[-2]},))
        case = Case(transcript(asked, said, sources, tokenizer=tokenizer), asked, sources, {})
        for check in ("complete", "grounded", "follows"):
            assert not CHECKS[check](case), (check, said, parts)
        assert CHECKS["grounded"](replace(case, passages=documents)), "the sources as they were tell other things"


def test_targets_follow_the_words_and_nothing_else_changes(read, tokenizer):
    e = read[0]
    copies = renamed(tokenizer, e, 3)
    assert len({c.id for c in copies}) == 3 and [c.id for c in copies] == [c.id for c in renamed(tokenizer, e, 3)]
    kinds = [{tokenizer.encode(w)[0] for w in kind if len(tokenizer.encode(w)) == 1} for kind in EXCHANGEABLE]
    for c in copies:
        np.testing.assert_array_equal(c.ids[:, 0], c.tokens[c.weights > 0])
        for same in ("weights", "probs", "tail"):
            np.testing.assert_array_equal(getattr(c, same), getattr(e, same))
        for before, after in zip(e.tokens, c.tokens, strict=True):
            assert before == after or any(before in kind and after in kind for kind in kinds)
        assert len(set(c.tokens.tolist())) == len(set(e.tokens.tolist())), "different words stay different"


def test_the_first_names_can_be_read_again(read, tokenizer):
    e = read[0]
    for copy in (e, *renamed(tokenizer, e, 3)):
        np.testing.assert_array_equal(first_names(tokenizer, copy), e.tokens)


def test_an_id_beyond_the_tokenizer_keeps_its_mass(read, tokenizer):
    e, beyond = read[0], tokenizer.vocab_size + 5
    ids, probs = (np.concatenate([x, x], 1) for x in (e.ids, e.probs / 2))
    ids[:, 1] = beyond
    (copy,) = renamed(tokenizer, replace(e, ids=ids, probs=probs), 1)
    assert (copy.ids[:, 1] == beyond).all() and (copy.ids[:, 0] == copy.tokens[copy.weights > 0]).all()


def test_without_copies_the_example_stays_as_it_is(read, tokenizer):
    assert renamed(tokenizer, read[0], 0) == [read[0]]


def test_only_criteria_whose_right_answers_are_known_are_taught_and_they_by_both_answers(world, tokenizer):
    index = Index([d for s in world.demonstrations for d in told(world, s)])
    built_in = [c for c in load_rubric("") if c.kind == "model"]
    own = Criterion(name="kind", kind="model", question="is {action} kind?")

    def taught(criteria):
        given = [(s, world.task(s, CONTEXTS[0])) for s in world.demonstrations]
        config = SimulateConfig()
        return [e for s, t in given for e in review_demonstrations(tokenizer, index, s, t, criteria, config, 144, "x")]

    made = taught(built_in)
    for name in ("sound", "told"):
        answers = {int(i) for e in made if e.lineage["kind"] == name for i in e.ids[:, 0]}
        assert answers == {tokenizer.control["yes"], tokenizer.control["no"]}
    assert taught([own]) == []
    assert [e.id for e in taught([own, *built_in])] == [e.id for e in made]

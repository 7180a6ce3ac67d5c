"""Examples that are not what they say: nothing but what was accepted, and what a world shows, is accounted for."""

import functools
from dataclasses import replace
from types import SimpleNamespace

import little
import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap.examples import (
    as_named_first,
    example,
    exchanged,
    for_simulator,
    for_students,
    labelled,
    name_ids,
    one_hot,
    renamed,
    verdict_example,
)
from ratchet.bootstrap.probes import Views
from ratchet.bootstrap.provenance import Sources
from ratchet.bootstrap.stages import seed
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Capture
from ratchet.bootstrap.wrongthink import spoiled_again
from ratchet.train.records import ORIGINS, Example


@pytest.fixture(scope="module")
def said(world, deeds, tokenizer):
    """To the first task a right answer with a soft target and a wrong one, and a right one to the second; corrections
    of a model's own wrong thought, and of a spoiled answer."""
    first, other = world.slices[0].tasks
    view = lambda task: [d for d in world.slices[0].documents if d.id in task.document_ids]
    say = lambda task, text, **more: transcript(task, text, view(task), tokenizer=tokenizer, **more)
    wrong, right = little.answer(deeds, first, (0,)), little.answer(deeds, first)
    thought = f"{wrong.split('.')[0]}."
    after = {"forced": tuple(tokenizer.encode(thought)), "forced_text": thought}
    return {
        "good": say(first, right),
        "bad": say(first, little.answer(deeds, first, (1,))),
        "other": say(other, little.answer(deeds, other)),
        "mended": say(first, f"no, {right}", source="inverted", **after),
        "spoiled": say(first, f"no, {right}", source="spoiled", **after),
    }


@pytest.fixture(scope="module")
def soft(said):
    """The target of the right answer: a third of the mass is on another id."""
    tokens = np.array(said["good"].tokens)
    mass = np.tile(np.float32([2 / 3, 1 / 3]), (len(tokens), 1))
    return Capture(np.stack([tokens, tokens + 1], 1).astype(np.int32), mass, np.zeros(len(tokens), np.float32))


@pytest.fixture(scope="module")
def sources(world, tokenizer, said, soft, little_run):
    accepted = {t.id: t for name, t in said.items() if name != "bad"}
    targets = {i: Target(i, soft if i == said["good"].id else t.capture, 0.0) for i, t in accepted.items()}
    tasks, shown = {t.id: t for t in world.slices[0].tasks}, world.seed.tasks
    reviewer = little_run.reviewer(little_run.fresh_weights())
    own = Views(little_run, little_run.writer(little_run.fresh_weights()), 1)
    of = lambda task: tuple(d for d in world.seed.documents if d.id in task.document_ids)
    views = lambda e, task: own(e, task) if e.origin == "seed" else [of(task), (*of(task), world.seed.documents[0])]
    return Sources(world, tokenizer, tasks, shown, shown, reviewer, accepted, targets, views)


def shows(sources, run):
    """The sources of what a run demonstrates."""
    return replace(sources, tokenizer=run.tokenizer, shown=run.shown, explained={})


def taught(sources, tokenizer, t, task, again=lambda t, task, number: t.forced) -> list[Example]:
    """What a generation's dataset has of a transcript."""
    aim = sources.targets[t.id]
    students = for_students(tokenizer, t, aim, task, "gen-000", again)
    return students if t.forced else [*students, for_simulator(t, aim, task, "gen-000")]


def again_of(world, tokenizer, said):
    """What makes another error in a spoiled thought, for each asking."""
    heard = tuple(sorted(said[name].text for name in ("good", "other")))
    return functools.partial(spoiled_again, world, tokenizer, heard, "no,")


@pytest.fixture(scope="module")
def made(sources, said, world, tokenizer):
    """The right answer as students and as a simulator learn it."""
    return taught(sources, tokenizer, said["good"], world.slices[0].tasks[0])


def made_of(e: Example, **other) -> Example:
    """An example with some of its parts exchanged."""
    fields = {name: getattr(e, name) for name in ("weights", "ids", "probs", "tail", "origin", "lineage")} | other
    return Example.create(fields.pop("tokens", e.tokens), **fields)


def says(e: Example, tokens, prompt=None, origin=None, **lineage) -> Example:
    """An example with the lineage of another that says this, certainly."""
    asked = e.tokens[: int(np.argmax(e.weights > 0))].tolist() if prompt is None else prompt
    return example(asked, tokens, one_hot(tokens), origin or e.origin, e.lineage | lineage)


def test_what_a_generation_makes_of_its_transcripts_is_accounted_for(sources, said, made, world, tokenizer):
    first, other = world.slices[0].tasks
    another = again_of(world, tokenizer, said)
    more = [*taught(sources, tokenizer, said["other"], other), *taught(sources, tokenizer, said["mended"], first)]
    more += taught(sources, tokenizer, said["spoiled"], first, another)
    simulated = [copy for e in made if e.origin == "simulate" for copy in renamed(world.names, tokenizer, e, 20)]
    assert {e.origin for e in (*made, *more)} == {"student", "simulate", "correction"} and len(simulated) == 20
    assert all(map(sources.explain, (*made, *more, *simulated)))
    certain = for_simulator(said["good"], sources.targets[said["good"].id].sampled(said["good"]), first, "gen-000")
    assert sources.explain(certain), "its tokens were accepted, whatever the target"


def test_what_a_world_shows_is_accounted_for_and_nothing_else_by_its_name(sources, said, little_run, made):
    skills = seed.demonstrations(little_run, little_run.fresh_weights())
    own = shows(sources, little_run)
    shown = [e for part in skills.values() for e in part]
    assert {e.origin for e in shown} == {"seed", "prose"} and any((np.diff(e.weights) < 0).any() for e in shown)
    assert all(map(own.explain, shown))
    worked = skills["simulate"][0]
    bad = [*little_run.tokenizer.encode(said["bad"].text), little_run.tokenizer.end]
    for e in (worked, skills["interrupt"][0], skills["prose"][0]):
        assert not own.explain(says(e, bad)) and not own.explain(says(e, bad, task="another"))
        assert not own.explain(made_of(e, weights=e.weights * 3))
    assert not own.explain(says(worked, [*worked.tokens[worked.weights > 0].tolist(), *bad]))
    assert not own.explain(says(worked, [*bad, *worked.tokens[worked.weights > 0].tolist()]))


def test_an_example_is_explained_once_in_a_run(sources, little_run, made):
    skills = seed.demonstrations(little_run, little_run.fresh_weights())
    own = shows(sources, little_run)
    e, prose = skills["simulate"][0], skills["prose"][0]
    bad = made_of(e, weights=e.weights * 3)
    assert [own.explain(one) for one in (e, prose, bad)] == [True, True, False]
    assert replace(sources, explained=own.explained).explain(made[0])
    assert own.explained == {e: True, prose: True, bad: False, made[0]: True}
    later = replace(sources, tokenizer=little_run.tokenizer, shown=(), accepted={}, explained=own.explained)
    asked = (e, prose, bad, made_of(e), made[0], made_of(made[0]))
    assert [later.explain(one) for one in asked] == [True, True, False, False, True, False]


def test_a_demonstration_answers_its_own_question_and_nothing_stands_within_it(sources, little_run):
    skills = seed.demonstrations(little_run, little_run.fresh_weights())
    own = shows(sources, little_run)
    for skill in ("simulate", "interrupt"):
        for e in map(as_named_first, skills[skill][:12]):
            assert own.explain(e)
            asked, said = e.tokens[: np.argmax(e.weights > 0)].tolist(), e.tokens[e.weights > 0].tolist()
            others = [t for t in little_run.shown if t.id != e.lineage["task"]]
            assert not any(own.explain(says(e, said, little_run.tokenizer.render(t.messages))) for t in others)
            for at in (n for n in range(1, len(said)) if said[n - 1] != little_run.tokenizer.end):  # of a call
                tokens = np.array([*asked, *said[:at], *asked[-3:], *said[at:]])
                weights = np.r_[np.zeros(len(asked)), np.ones(at), np.zeros(3), np.ones(len(said) - at)]
                ids, probs, tail = one_hot(said)
                assert not own.explain(made_of(e, tokens=tokens, weights=weights, ids=ids, probs=probs, tail=tail))


@pytest.fixture(scope="module")
def judged(sources, world, deeds, little_run):
    """(verdict, question, right verdict, example of it) about an answer in practice whose first step is wrong."""
    sure = next(c for c in little_run.rubric if c.id == "sure")
    task = world.seed.tasks[-1]
    told = little.answer(deeds, task, (0,))
    made = taught_about(sources, task, told, sure, sources.views(SimpleNamespace(origin="review"), task)[0])
    assert [e.tokens[-1] for e in made] == [*reversed(sources.tokenizer.verdicts)]
    return made


def taught_about(sources, task, told, criterion, view, origin="review") -> list[Example]:
    """What a reviewer is taught of an answer in practice, with passages in view."""
    lineage = {"kind": criterion.id, "task": task.id, "generation": 1, "said": told}
    asked = labelled(criterion, sources.world, task, told, view, sources.reviewer)
    return [verdict_example(sources.tokenizer, before, [(q, right)], origin, lineage) for before, q, right in asked]


def flipped(e: Example, verdicts, at: int = -1) -> Example:
    """An example with one of its verdicts turned round."""
    tokens, said = e.tokens.copy(), np.flatnonzero(e.weights)[at]
    tokens[said] = verdicts[0] + verdicts[1] - tokens[said]
    ids, probs, tail = one_hot(tokens[e.weights > 0].tolist())
    return made_of(e, tokens=tokens, ids=ids, probs=probs, tail=tail)


def test_right_verdicts_are_accounted_for_and_turned_round_ones_are_not(sources, judged, little_run):
    own = shows(sources, little_run)
    shown = seed.demonstrations(little_run, little_run.fresh_weights())["review"]
    rows = [e for e in shown if e.weights.sum() > 1]
    assert all(map(own.explain, (*judged, *shown))) and len(rows) > 4
    assert not own.explained.keys() & {*judged}, "criteria are measured anew in each generation"
    elsewhere = replace(own, practice=(), explained={})
    assert not any(map(elsewhere.explain, judged)), "about a task that is not practised on"
    assert any(e.lineage.get("renamed") for e in shown)
    verdicts = sources.tokenizer.verdicts
    for e in (*judged, *rows):
        assert not any(own.explain(flipped(e, verdicts, at)) for at in range(int(e.weights.sum())))
    first, second = judged
    other = lambda e, **lineage: made_of(e, lineage=e.lineage | lineage)
    assert not own.explain(other(first, said=None)) and not own.explain(other(rows[0], said="the red lamp hums."))
    assert not own.explain(other(first, kind="grounded")) and not own.explain(other(first, task="another"))
    assert not own.explain(other(first, said=second.lineage["said"].split(". ")[1]))
    assert not own.explain(made_of(first, origin="seed")) and not own.explain(made_of(rows[0], origin="review"))


def test_verdicts_are_taught_beside_what_was_in_view(sources, judged, world, deeds, little_run):
    """Beside other sources, or altered ones, the same verdict would teach to believe what nobody told."""
    sure, task = next(c for c in little_run.rubric if c.id == "sure"), world.seed.tasks[-1]
    told, others = little.answer(deeds, task, (0,)), world.seed.documents
    views = sources.views(judged[0], task)
    explained = lambda *view: [sources.explain(e) for e in taught_about(sources, task, told, sure, view)]
    assert "passages" in sure.show and all(explained(*view) == [True, True] for view in views)
    assert explained(*views[0], others[1]) == [False, False] and not any(explained(*others[:2]))
    assert explained(*views[0], replace(others[0], text=others[0].text + " so.")) == [False, False]
    for e in judged:
        without = e.tokens[len(e.tokens) // 2 :]
        assert not sources.explain(made_of(e, tokens=without, weights=e.weights[len(e.tokens) - len(without) :]))
    own = shows(sources, little_run)
    for e in seed.demonstrations(little_run, little_run.fresh_weights())["review"][:20]:
        first = as_named_first(e)
        tokens = first.tokens.copy()
        tokens[3] = tokens[3] + 1 if tokens[3] + 1 not in first.tokens else tokens[3] + 2
        assert own.explain(first) and not own.explain(made_of(first, tokens=tokens))


def test_names_among_alternatives_matter_only_where_they_are_taught(sources, said, soft, world, tokenizer):
    """Simulators may learn what was sampled alone: a name may then become one that the teacher only thought of."""
    t, task = said["good"], world.slices[0].tasks[0]
    others = [i for kind in name_ids(world.names, tokenizer) for i in kind if i not in {*t.tokens, *t.prompt}]
    ids_N2 = np.stack([soft.ids_NK[:, 0], np.resize(others, len(t.tokens))], 1).astype(np.int32)
    aim = Target(t.id, soft._replace(ids_NK=ids_N2), 0.0)
    known = replace(sources, targets={**sources.targets, t.id: aim}, explained={})
    for target in (aim, aim.sampled(t)):
        copies = renamed(world.names, tokenizer, for_simulator(t, target, task, "gen-000"), 20)
        assert len(others) > 1 and len({e.id for e in copies}) > 1 and all(map(known.explain, copies))


@pytest.mark.parametrize("generation", ["one", None, 1.5, -1, 9, [1]])
def test_a_verdict_of_no_generation_had_nothing_in_view(judged, little_run, generation):
    own, task = Views(little_run, little_run.writer(little_run.fresh_weights()), 1), little_run.world.seed.tasks[-1]
    e = made_of(judged[0], lineage=judged[0].lineage | {"generation": generation})
    assert e.origin == "review" and own(e, task) == []


def test_worked_tasks_of_one_id_are_each_what_they_are(sources, little_run):
    """As where the id is that of the question, and other documents answer it."""
    given = little_run.world.seed
    alike = tuple(replace(t, id=given.tasks[0].id) for t in given.tasks)
    run = replace(little_run, world=replace(little_run.world, seed=given._replace(tasks=alike)))
    own = Views(run, run.writer(run.fresh_weights()), 1)
    twins = replace(shows(sources, run), views=own)
    made = seed.demonstrations(run, run.fresh_weights())
    assert len({t.id for t in run.shown}) == 1 < len(run.shown)
    assert all(twins.explain(e) for skill in ("simulate", "interrupt", "review") for e in made[skill])


def test_names_that_become_one_are_not_accounted_for(sources, little_run):
    """What stands in an example is what its lineage says was exchanged, there and back."""
    own = shows(sources, little_run)
    made = seed.demonstrations(little_run, little_run.fresh_weights())["review"]
    e = next(e for e in made if e.lineage.get("renamed"))
    (a, b), *_ = e.lineage["renamed"]
    tokens = e.tokens.copy()
    tokens[tokens == b] = a  # mapped back, nothing tells it from what it was
    assert own.explain(e) and (tokens != e.tokens).any() and not own.explain(made_of(e, tokens=tokens))


def test_reviews_train_on_verdicts_alone_and_towards_them(sources, tokenizer, said, judged):
    yes, no = tokenizer.verdicts
    question, lineage = judged[0].tokens[:-1].tolist(), judged[0].lineage
    verdict = lambda tokens, aim=None: example(question, tokens, aim or one_hot(tokens), "review", lineage)
    assert sources.explain(verdict([no])) and not sources.explain(verdict([no, 7]))
    assert not sources.explain(verdict([no], one_hot([yes])))
    assert not sources.explain(example([], [no], one_hot([no]), "review", lineage))
    count = len(said["bad"].tokens)
    ids = np.stack([[no] * count, said["bad"].tokens], 1).astype(np.int32)
    aim = Capture(ids, np.tile(np.float32([0.01, 0.99]), (count, 1)), np.zeros(count, np.float32))
    assert not sources.explain(verdict([no] * count, aim))


def test_what_an_example_says_is_what_the_transcript_said_that_it_names(sources, said, made):
    good, bad, other = said["good"], said["bad"], said["other"]
    hidden = [
        says(made[0], bad.tokens),
        says(made[0], bad.tokens, transcript=bad.id),
        says(made[0], bad.tokens, transcript=""),
        says(made[0], good.tokens, task=other.task_id),
        says(made[0], good.tokens, transcript=other.id),
        says(made[0], bad.tokens[-3:], [*good.student_prompt, *bad.tokens[:-3]]),
        says(made[0], [*good.tokens, *good.tokens]),
        *(says(made[0], bad.tokens, origin=origin) for origin in ORIGINS),
        *(says(made[0], bad.tokens, origin=origin, task="", transcript="") for origin in ORIGINS),
        says(made[0], good.tokens, origin="imitation"),
    ]
    assert sources.explain(says(made[0], good.tokens)) and not any(map(sources.explain, hidden))


def test_an_answer_is_one_to_what_was_asked(sources, said, made):
    good, other, simulated = said["good"], said["other"], made[-1]
    assert simulated.origin == "simulate"
    for prompt in (other.student_prompt, [*good.student_prompt, 7], good.student_prompt[1:], [7]):
        assert not sources.explain(says(made[0], good.tokens, prompt))
        assert not sources.explain(says(simulated, good.tokens, prompt))
        assert not sources.explain(says(made[0], said["mended"].tokens, prompt, "correction"))


def test_a_correction_comes_after_a_wrong_thought_and_an_answer_after_none(sources, said, world, tokenizer):
    mended, own = said["mended"], taught(sources, tokenizer, said["mended"], world.slices[0].tasks[0])[0]
    assert not sources.explain(says(own, mended.tokens, mended.student_prompt))
    assert not sources.explain(says(own, mended.tokens, origin="student"))
    assert not sources.explain(says(own, mended.tokens, [*mended.student_prompt, *mended.forced, 7]))
    assert not sources.explain(says(own, [*mended.forced, *mended.tokens], mended.student_prompt))
    spoiled = taught(sources, tokenizer, said["spoiled"], world.slices[0].tasks[0])[0]
    assert not sources.explain(says(spoiled, mended.tokens, mended.student_prompt)), "nothing is interrupted"
    task = world.slices[0].tasks[0]
    *_, other = taught(sources, tokenizer, said["spoiled"], task, again_of(world, tokenizer, said))
    asked, right = tokenizer.render(task.askings[-1]), said["good"].text
    assert sources.explain(other) and not sources.explain(says(other, said["spoiled"].tokens, asked))
    for thought in (right, f"{right.split('.')[0]}.", "the red hall lamp sleeps."):
        own = says(other, said["spoiled"].tokens, [*asked, *tokenizer.encode(thought)])
        assert not sources.explain(own), "what is right would be interrupted, or what no rule has spoiled"


@pytest.mark.parametrize("share", [0.99, 0.5, 0.24, 0.01])
def test_no_mass_is_on_what_the_target_does_not_have(sources, said, made, soft, share):
    """Be it on a rejected answer to the same task, to another, or on a document."""
    for e in made:
        ids, probs = np.insert(e.ids, 0, said["bad"].tokens[: len(e.ids)], axis=1), np.insert(e.probs, 0, 0, axis=1)
        assert sources.explain(made_of(e, ids=ids, probs=probs))
        probs = np.concatenate([np.full((len(probs), 1), share), e.probs * (1 - share)], axis=1)
        assert not sources.explain(made_of(e, ids=ids, probs=probs))
        turned = np.tile(np.float32([1 / 3, 2 / 3]), (len(e.ids), 1))
        assert not sources.explain(made_of(e, probs=turned)), "the other way round"
        assert not sources.explain(made_of(e, probs=e.probs * (1 - share), tail=np.full(len(e.ids), share)))


def test_weights_are_as_they_were_made(sources, made):
    for e in made:
        last = np.flatnonzero(e.weights)[-1]
        assert not sources.explain(made_of(e, weights=e.weights * 1000))
        assert not sources.explain(made_of(e, weights=np.where(np.arange(len(e.weights)) == last, 1e-6, e.weights)))


def test_names_change_places_within_a_kind_in_sources_and_answer_alike(sources, said, made, world, tokenizer):
    simulated, student = made[-1], made[0]
    ids = {word: tokenizer.encode(f" {word}")[0] for word in (*little.COLOURS, *little.DEEDS)}

    def swapped(e: Example, a: str, b: str, ways: int = 2, prompt: bool = True) -> Example:
        pairs = [[ids[a], ids[b]], [ids[b], ids[a]]][:ways]
        tokens = np.where(e.weights > 0, exchanged(e.tokens, pairs), e.tokens)
        tokens = exchanged(e.tokens, pairs) if prompt else tokens
        return made_of(e, tokens=tokens, ids=exchanged(e.ids, pairs), lineage=e.lineage | {"renamed": pairs})

    used = [w for w in little.DEEDS if ids[w] in said["good"].tokens]
    colour = next(w for w in little.COLOURS if ids[w] in said["good"].tokens)
    assert sources.explain(swapped(simulated, *used))
    assert not sources.explain(swapped(student, *used)), "a student sees no sources"
    assert not sources.explain(swapped(simulated, *used, prompt=False)), "the sources say otherwise"
    assert not sources.explain(swapped(simulated, *used, ways=1)), "two names have become one"
    assert not sources.explain(swapped(simulated, used[0], colour)), "a deed is no colour"

from types import SimpleNamespace

import pytest

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.signals import grounded
from ratchet.bootstrap.worlds import DocumentsConfig, Question
from ratchet.bootstrap.worlds.documents import KINDS, TALES, create
from ratchet.bootstrap.worlds.world import Document

PAGES = [Document(f"page {n}", f"Page {n} is about number {n}.") for n in range(12)]
ASKED = [Question(f"What is page {n} about, {m}?", f"number {n}", f"page {n}") for n in range(12) for m in range(4)]


def world(generations=3, seed=0, questions=(), documents=PAGES, **settings):
    config = DocumentsConfig("somewhere", **{"slice": 3, "fresh": 2, "question": "What does {title} say?"} | settings)
    source = SimpleNamespace(documents=documents, questions=questions)
    return create(config, seed, generations, lambda given: source if given is config else None)


def ids(material) -> list[str]:
    return [d.id for d in material.documents]


def test_the_order_of_documents_is_a_function_of_the_seed_alone():
    one = [ids(m) for m in (world().fresh, *world().slices)]
    assert one == [ids(m) for m in (world(documents=PAGES[::-1]).fresh, *world(documents=PAGES[::-1]).slices)]
    assert one != [ids(m) for m in (world(seed=1).fresh, *world(seed=1).slices)]
    assert len({i for part in one for i in part}) == 11, "each is read once"
    assert [ids(m) for m in world(2).slices] == one[1:3], "more generations begin as fewer do"


def test_too_few_documents_are_one_clear_line():
    with pytest.raises(ValueError, match="somewhere holds 12 documents, 5 generations need 15; lower --generations"):
        world(5)
    with pytest.raises(ValueError, match="documents: say what to read, as in `ratchet run documents FOLDER`"):
        create(DocumentsConfig(), 0, 1, lambda config: None)


def test_documents_get_one_question_each_or_else_what_a_model_proposes():
    asked = world()
    assert [t.question for t in asked.slices[0].tasks] == [f"What does {i} say?" for i in ids(asked.slices[0])]
    braced = world(question="Does {title} say {yes} or {?")
    assert braced.slices[0].tasks[0].question == f"Does {ids(asked.slices[0])[0]} say {{yes}} or {{?"
    with pytest.raises(ValueError, match="documents.question: it is the same about every document"):
        world(question="What is the lesson?")
    assert len(world(1, documents=PAGES[:1], question="What is the lesson?", fresh=0, slice=1).slices[0].tasks) == 1
    proposed = world(question="", per_document=2)
    assert proposed.kinds == KINDS.read_text() and proposed.per_document == 2
    assert not any(part.tasks for part in (proposed.fresh, *proposed.slices))
    with pytest.raises(ValueError, match="documents.tasks: nowhere.yaml cannot be read"):
        world(question="", tasks="nowhere.yaml")


def test_the_texts_that_come_along_are_short_and_have_questions_whose_answers_stand_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tales = create(DocumentsConfig(TALES, slice=8, fresh=8), 0, 2, read)
    texts = {d.id: d.text for part in (tales.fresh, *tales.slices) for d in part.documents}
    assert len(texts) == 24 and all(80 <= len(text.split()) <= 150 for text in texts.values())
    assert len(tales.untaught) == 72 and len(tales.probes.tasks) > 24
    said = [grounded(t.answer, [Document("", texts[i])]).score for t in tales.probes.tasks for i in t.document_ids]
    assert min(said) >= 0.5
    (tmp_path / TALES).mkdir()
    with pytest.raises(ValueError, match="tales"):
        create(DocumentsConfig(TALES), 0, 1, read)


def test_without_labelled_questions_nothing_probes_and_nothing_is_asked():
    plain = world()
    assert (plain.known, plain.untaught, plain.metrics) == (None, (), ()) and not plain.items(plain.slices[0].tasks)
    assert plain.probes.tasks == plain.seed.tasks == ()


def test_half_of_the_labelled_questions_probe_and_the_others_are_asked_about_what_was_read():
    labelled = world(questions=ASKED)
    probes = {(t.question, *t.document_ids) for t in labelled.probes.tasks}
    everything = [t for part in (*labelled.slices, labelled.fresh) for t in part.tasks]
    items = labelled.items(everything)
    asked = {(i.messages[-1]["content"], i.group) for i in items}
    known = {(q.question, q.document) for q in ASKED}
    assert not probes & asked and probes | asked == {q for q in known if q in probes or q[1] in set(ids_of(everything))}
    assert 12 < len(probes) < 36 and len(items) == len(asked) == len({i.id for i in items})
    assert set(labelled.untaught) == {q.question for q in ASKED}
    first = labelled.items(labelled.slices[0].tasks)
    assert first and {i.group for i in first} <= set(ids(labelled.slices[0]))
    assert {i.id for i in first} == {i.id for i in world(2, questions=ASKED[::-1]).items(labelled.slices[0].tasks)}


def ids_of(tasks) -> list[str]:
    return [i for t in tasks for i in t.document_ids]


def test_probes_are_worked_tasks_about_documents_that_are_read_last_and_never_shown():
    labelled = world(2, questions=ASKED)
    tasks, read = labelled.probes.tasks, [*ids(labelled.fresh), *ids(labelled.slices[0]), *ids(labelled.slices[1])]
    place = [read.index(i) if i in read else len(read) for t in tasks for i in t.document_ids]
    assert place == sorted(place, reverse=True) and place[0] == len(read)
    assert all(t.answer == f"number {t.document_ids[0].split()[1]}" for t in tasks)
    assert set(ids(labelled.probes)) == set(ids_of(tasks))
    assert [t.id for t in world(3, questions=ASKED).probes.tasks] == [t.id for t in tasks], "in whatever run"


def test_probes_are_graded_by_their_known_answers_and_nothing_else_is():
    labelled = world(questions=[*ASKED, *(q._replace(answer="the number") for q in ASKED)])
    for task in labelled.probes.tasks[:3]:
        right = labelled.known(task, f"It is about {task.answer}.", "")
        assert right.right and right.label == "holds" and not right.steps
        assert labelled.known(task, "The number.", "").right, "by any of several known answers"
        assert not labelled.known(task, "I do not know.", "").right
    with pytest.raises(KeyError):
        labelled.known(labelled.slices[0].tasks[0], "number 1", "")


def test_items_are_scored_by_the_known_answer_and_by_words_in_common():
    labelled = world(questions=ASKED)
    item = labelled.items(labelled.slices[0].tasks)[0]
    assert item.reference == f"number {item.group.split()[1]}" and item.greedy
    assert item.score(f"{item.reference}, they say", False) == {"labelled": 1.0, "labelled_f1": pytest.approx(2 / 3)}
    assert item.score("", True) == {"labelled": 0.0, "labelled_f1": 0.0}
    assert {m.name for m in labelled.metrics} == {"labelled", "labelled_f1"}

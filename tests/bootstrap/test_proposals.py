import dataclasses
import json
import re

import numpy as np
import pytest
from support import little_config, saying, start, write_model

from ratchet.bootstrap import kinds
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.kinds import read_kinds
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.loop import planned
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.proposals import Proposal, Proposer, from_json, tasks_of, to_json
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import draft
from ratchet.bootstrap.stages.propose import NoTasks, missing, propose
from ratchet.bootstrap.worlds.world import Document
from ratchet.launch import cli

TEXTS = {
    "heron": "the heron ate the small fish of the pond, and next year there was none.",
    "goat": "the goat asked nobody about the snow, and it broke under her feet.",
    "clock": "the clock was set forward, but first a notice was nailed to the tower.",
    "fox": "the fox painted the rung with mud, and the badger fell from the ladder.",
}
SHORT = """
version: 1
gain: -99
grounded: 0
texts: ["the mule fell.", "the agent slept."]
kinds:
- {id: ask, instruction: ask., examples: [{question: "who?"}, {question: "who?"}],
   wordings: &w ["{question} a", "{question} b", "{question} c", "{question} d", "{question} e"]}
- {id: own, open: true, instruction: new., wordings: *w, times: 2,
   examples: [{kind: k, question: "who?"}, {kind: k, question: "who?"}]}
- {id: lesson, question: "what of {title}?", wordings: *w}
"""
ASK = SHORT.partition("- {id: own")[0]
"""The first of the three kinds alone."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    place = tmp_path_factory.mktemp("texts")
    for name, text in TEXTS.items():
        (place / f"{name}.txt").write_text(text)
    (place / "kinds.yaml").write_text(SHORT)
    return place


def config_of(base, texts, **changes):
    sizes = {"train__columns": 1024, "model__max_length": 1024, "simulate__keep": 4, "simulate__new_tokens": 60}
    own = {"world": "documents", "documents__path": str(texts), "documents__slice": 2, "documents__fresh": 1,
           "documents__tasks": str(texts / "kinds.yaml"), "generations": 2, "simulate__unit_tasks": 1,
           "simulate__calls": 0}  # fmt: skip
    return runs.with_base(little_config(base=str(base), **sizes | own | changes))


@pytest.fixture
def run(base, texts, tmp_path, monkeypatch):
    """A run of a world without tasks, whose grammar lets a model of random weights come to an end."""
    monkeypatch.setattr(kinds, "LONGEST_QUESTION", 8)
    monkeypatch.setattr(kinds, "LONGEST_NAME", 3)
    config = config_of(base, texts)
    prepared = runs.prepare(start(tmp_path / "run", config), config, Silent())
    yield prepared
    prepared.metrics.close()


@pytest.fixture
def weights(run):
    return base_weights(run.config, run.mesh)


def proposer_of(run, weights, *said, text=ASK):
    writer, index = run.writer(weights), Index(run.passages(1))
    writer, withheld = saying(writer, *said) if said else writer, ["Where is the labelled heron?"]
    return Proposer(writer, run.scorer, read_kinds(text, "kinds"), index, withheld)


def says(run, weights, question, answer, text=ASK):
    """What becomes of a question that a model proposes about the first document and answers so."""
    proposer = proposer_of(run, weights, text=text)
    spoken = {False: json.dumps({"question": question}), True: answer}
    writers = {greedy: saying(proposer.writer, said).sampler for greedy, said in spoken.items()}
    either = lambda params, requests, *, temperature, **given: writers[temperature == 0.0](params, requests)
    writer = dataclasses.replace(proposer.writer, sampler=either)
    (found,) = dataclasses.replace(proposer, writer=writer)(run.material(1).documents[:1], 0)
    return found


def test_a_model_of_random_weights_proposes_what_the_schema_allows(run, weights):
    found = proposer_of(run, weights, text=SHORT)(run.material(1).documents, 0)
    assert len(found) == 2 * 4, "each kind as often as it says, about each document"
    proposed = [p for p in found if p.kind != "lesson" and p.question]
    assert len(proposed) >= 3, [p.reason for p in found]
    assert all(re.fullmatch(r"[^?？؟]{0,8}[?？؟]", p.question) for p in proposed)
    assert all(p.question == f"what of {p.document}?" for p in found if p.kind == "lesson")


def test_of_a_long_document_passages_are_shown_from_one_end_to_the_other(run, weights):
    text = " ".join(f"word{n}." for n in range(4000))
    index = Index(run.cut([Document("long", text)]))
    found = dataclasses.replace(proposer_of(run, weights, text=SHORT), index=index)._asked(Document("long", text))
    passages = [p.id for p in index.of("long", "")]
    at = [passages.index(asked.view.id) for asked in found]
    assert len(passages) > 16 and len(at) == 4
    gaps = {(later - earlier) % len(passages) for earlier, later in zip(at, [*at[1:], at[0]], strict=True)}
    assert all(abs(gap - len(passages) / 4) < 1 for gap in gaps), "they lie equally far apart, all around"


def test_what_is_proposed_leaves_room_for_the_longest_passage(run, weights):
    """Whoever answers sees a passage that the question finds, which may be longer than the one that was shown. Tokens
    count: of figures there are fewer letters, and more tokens."""
    brief, long, figures = Document("brief", "so it is."), Document("long", "so it is. " * 90), "7 3 1 9 " * 100
    reason_beside = lambda words, *passages: dataclasses.replace(
        proposer_of(run, weights), index=Index(passages)
    )._with_room(proposal("brief", "where is it? " * words)).reason  # fmt: skip
    assert reason_beside(3, brief, long) == reason_beside(60, brief) == ""
    assert reason_beside(60, brief, long) == "leaves no room for a passage"
    encoded = lambda text: len(run.tokenizer.encode(text))
    assert len(figures) < len(long.text) and encoded(figures) > encoded(long.text)
    mixed = dataclasses.replace(proposer_of(run, weights), index=Index([long, Document("figures", figures)]))
    assert mixed._longest == figures
    assert mixed._with_room(proposal("d", "", "cut off")).reason == "cut off"


def test_gain_is_that_of_the_answer_with_the_text_over_without(run, weights):
    question, answer = f"where was the {run.material(1).documents[0].id}?", "to the tower."
    found = says(run, weights, question, answer)
    tokenizer, message = run.tokenizer, [{"role": "user", "content": question}]
    given = tuple(tokenizer.render(message)), tuple(tokenizer.encode(answer))
    (without_N,) = run.scorer.log_likelihoods(weights, [given])
    assert (found.answer, found.reason) == (answer, "")
    with_text = 0.0  # who says it with the text in view is certain of it
    np.testing.assert_allclose(found.gain, with_text - without_N.mean(), rtol=1e-5)
    assert found.askings == tuple(f"{question} {letter}" for letter in "abcde")


@pytest.mark.parametrize(
    ("question", "answer", "text", "reason"),
    [
        ("where was the {other}?", "to the tower.", ASK, "the question finds another document: {other}"),
        ("was the {id} on the tower?", "the tower.", ASK, "the question says the answer"),
        ("?!", "to the tower.", ASK, "has no words"),
        ("where is the labelled heron?", "to the tower.", ASK, "holds a labelled question, which is for measuring"),
        ("so, where is the Labelled heron now?", "to the tower.", ASK, "holds a labelled question, which is for"),
        ("the {id}?", "", ASK, "its answer is empty"),
        ("where was the {id}?", "to mars by rocket.", ASK.replace("grounded: 0", "grounded: 0.5"),
         "the answer says too much that is in no passage: mars, rocket"),
        ("where was the {id}?", "to the tower.", ASK.replace("gain: -99", "gain: 99"), "the text adds too little"),
        ("where " * 400 + "was the {id}?", "to the tower.", ASK, "leaves no room for a passage"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_refused_with_the_reason(run, weights, question, answer, text, reason):
    names = dict(zip(("id", "other"), (d.id for d in run.material(1).documents), strict=True))
    found = says(run, weights, question.format(**names), answer, text)
    assert found.reason.startswith(reason.format(**names))


def proposal(document, question, reason=""):
    return Proposal(document, "ask", question, "so", (f"please: {question}",) * 5, 1.0, reason)


def test_tasks_are_few_of_a_document_and_none_repeats_another():
    found = [
        proposal("a", "who painted the rung with mud?"), proposal("b", "Who painted the rung with mud"),
        proposal("b", "what fell from the tower?", "unlikely"), proposal("b", "why did the snow break?"),
        proposal("a", "which rung was it?"), proposal("a", "what did the badger say in the end?"),
    ]  # fmt: skip
    tasks = tasks_of(found, 2)
    assert [(t.document_ids, t.question) for t in tasks] == [
        (("a",), "who painted the rung with mud?"), (("a",), "which rung was it?"), (("b",), "why did the snow break?"),
    ]  # fmt: skip
    assert all(len(t.askings) == 5 and not t.answer for t in tasks)
    assert [from_json(to_json(p)) for p in found] == found


def test_a_question_that_is_the_same_for_all_texts_is_asked_about_each():
    """Only the titles differ, in few of many words."""
    asks = lambda name: f"what lesson does {name} hold for somebody who runs a small business today?"
    found = [dataclasses.replace(proposal(d, asks(d)), kind="lesson") for d in ("a", "b", "c", "a")]
    assert len(tasks_of(found, 3)) == 1
    assert [t.document_ids for t in tasks_of(found, 3, {"lesson"})] == [("a",), ("b",), ("c",)]


def one_each(self, documents, seed):
    """What a model proposes that has something to ask about every document, and something that is no task."""
    return [p for d in documents for p in (proposal(d.id, "so?", "unlikely"), proposal(d.id, f"who is the {d.id}?"))]


def test_proposals_are_committed_by_unit_and_read_back(run, weights, monkeypatch):
    expected = sum(stage["work"] for stage in planned(run, []) if stage["stage"] == "propose")
    assert expected == 1 + 2 + 1 and run.tasks(1) == ()
    monkeypatch.setattr(Proposer, "__call__", one_each)
    propose(run, 1, weights)
    stage, names = Stage(run.proposals(1)), [d.id for d in run.material(1).documents]
    tasks = run.tasks(1)
    assert len(stage.committed()) == 2 * 2 and not missing(run, 1)
    assert [t.question for t in tasks] == [f"who is the {name}?" for name in names]
    assert run.read(1) == tasks and [t.document_ids for t in tasks] == [(name,) for name in names]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "tasks_of", None)  # of many documents, each task is compared with very many
        assert run.tasks(1) == tasks
    first = stage.sha256(0)
    (run.proposals(1) / "unit-00001.json").unlink()
    later = lambda self, documents, seed: one_each(self, [d for d in documents if d.id == names[1]], seed)
    monkeypatch.setattr(Proposer, "__call__", later)
    propose(run, 1, weights)
    assert run.tasks(1) == tasks and stage.sha256(0) == first, "what is committed is not proposed again"


def test_a_generation_without_any_task_ends_with_what_to_do(run, weights, monkeypatch):
    monkeypatch.setattr(Proposer, "__call__", lambda self, *given: one_each(self, *given)[::2])
    for _ in range(2):  # also when it goes on after it was killed before it said so
        assert missing(run, 1)
        with pytest.raises(NoTasks, match="none of 2 proposed tasks .*unlikely.*--documents.tasks FILE.*--doc"):
            propose(run, 1, weights)
        monkeypatch.setattr(Proposer, "__call__", lambda *_: pytest.fail("what is committed is not proposed again"))


def test_a_teacher_is_shown_worked_answers_before_its_task_and_a_student_is_not(run, weights):
    worked = """answers: [{question: "q1?", answer: "a1."}, {question: "q2?", answer: "a2."}]"""
    kinds = read_kinds(ASK + worked, "kinds")
    shown, document = dataclasses.replace(run, kinds=kinds), run.material(1).documents[0]
    task = proposal(document.id, f"who is the {document.id}?").task
    prompt = draft(shown.writer(weights), Index(shown.passages(1)), task, 0, "").prompt
    pair = lambda q, a: [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    messages = [*pair("q1?", "a1."), *pair("q2?", "a2."), *task.messages]
    assert prompt == tuple(run.tokenizer.render(messages, passages=[*kinds.texts, document.text]))
    assert "a1." not in run.tokenizer.decode(run.tokenizer.render(task.messages))


def test_a_preview_shows_tasks_answers_and_verdicts_and_writes_nothing(base, texts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Proposer, "__call__", one_each)
    monkeypatch.chdir(tmp_path)
    words = [str(texts), f"--documents.tasks={texts / 'kinds.yaml'}", f"--base={base}"]
    small = ["--documents.slice=2", "--documents.fresh=1", "--simulate.keep=4", "--simulate.samples=2"]
    assert cli.main(["preview", "documents", *words, *small, "--tasks", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [p["reason"] for p in found["refused"]] == ["unlikely"] * 2
    assert [len(t["answers"]) for t in found["tasks"]] == [2, 2] and len(found["tasks"][0]["askings"]) == 5
    assert all({"finished", "grounded", "gain"} <= a["verdicts"].keys() for t in found["tasks"] for a in t["answers"])
    assert not list(tmp_path.iterdir())

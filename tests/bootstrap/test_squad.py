"""The table of what is known of real passages: how answers are graded, and what its arms have in common."""

import json
import sys
from pathlib import Path

import pytest
from support import transcript, write_model

from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.stages.train import mixture
from ratchet.bootstrap.worlds.world import Task

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import reviewing
import squad
from squad import COUNTED

ROWS = {
    f"passage {n}": {
        "title": "T",
        "context": "c",
        "questions": [{"question": f"{n} {i}?", "answer": "x"} for i in range(n + 1)],
    }
    for n in range(3)
}


@pytest.mark.parametrize(
    ("said", "holds", "exact", "f1"),
    [
        ("The silver", 1, 1, 1.0),
        ("It was molten silver.", 1, 0, 0.4),
        ("It was gold.", 0, 0, 0.0),
        ("", 0, 0, 0.0),
    ],
)
def test_an_answer_is_graded_as_squad_does(said, holds, exact, f1):
    assert squad.scored("silver", said, True) == {"holds": holds, "exact": exact, "f1": pytest.approx(f1)}


def test_every_question_of_a_passage_is_asked_once_and_without_sources():
    items = squad.items_of(ROWS)
    assert [i.messages[0]["content"] for i in items] == ["0 0?", "1 0?", "1 1?", "2 0?", "2 1?", "2 2?"]
    assert len({i.id for i in items}) == 6 and {len(i.messages) for i in items} == {1}


def test_a_swapped_answer_keeps_the_question_of_a_task_about_another_passage():
    tasks = {f"t{n}": Task(f"t{n}", (f"passage {n // 3}",), ({"role": "user", "content": f"{n}?"},)) for n in range(9)}
    said = [transcript(task, f"answer {i}", student_prompt=(n,)) for n, (i, task) in enumerate(tasks.items())]
    moved = squad.swapped(said, tasks)
    assert [t.student_prompt for t in moved] == [t.student_prompt for t in said]
    assert [t.task_id for t in moved] == [t.task_id for t in said]
    assert sorted(t.text for t in moved) == sorted(t.text for t in said)
    passage = {t.text: tasks[t.task_id].document_ids for t in said}
    assert all(passage[t.text] != tasks[t.task_id].document_ids for t in moved)


def test_questions_of_one_passage_vary_together_in_an_interval():
    items = squad.items_of({f"passage {n}": ROWS["passage 2"] for n in range(20)})
    alone = {i.id: float(n % 2) for n, i in enumerate(items)}
    together = {i.id: float(int(i.group.split()[1]) % 2) for i in items}
    assert squad.interval(alone, items)["value"] == squad.interval(together, items)["value"] == 0.5
    width = lambda scores: (lambda of: of["high"] - of["low"])(squad.interval(scores, items))
    assert width(together) > 2 * width(alone)


def test_a_difference_is_paired():
    items = squad.items_of(ROWS)
    names = ("holds", "exact", "f1", "choice", "nats")
    scores = lambda more: {i.id: dict.fromkeys(names, n + more) for n, i in enumerate(items)}
    told = squad.table({"base": {"scores": scores(0)}, "reviewed": {"scores": scores(0.5)}}, items)
    assert told["differences"]["reviewed - base"]["f1"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    assert told["differences"].keys() == {"reviewed - base"}, "arms that are not there yet are left out"


@pytest.mark.long
def test_arms_are_trained_on_as_many_tokens_and_asked_the_same(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(squad, "TOKENS", 60)
    rows = [row | {"context": f"It is brief and doubled {n}."} for n, row in enumerate(ROWS.values())]
    run = squad.prepared(
        tmp_path / "run", rows, 2, Silent(), base=str(write_model(tmp_path / "model")), simulate__new_tokens=16,
        documents__question="What is {title}?", train__columns=3072, model__max_length=3072, train__lora=2,
    )  # fmt: skip
    base, tasks = base_weights(run.config, run.mesh), {t.id: t for t in run.read(1)}
    g = Generation(run, 1, 0, base, base, run.tasks(1), tasks)
    kept = [transcript(task, "It is doubled.", tokenizer=run.tokenizer) for task in tasks.values()]
    made, items = squad.Made(g, kept, [], {}), squad.items_of(squad.read_by(run, rows))
    answers = mixture(run.config, squad.students(g, kept, tasks), [], [])
    arms = {"base": [], "passages": squad.raw(run, run.material(1).documents), "reviewed": answers}
    found = {name: squad.arm(made, name, pools, items) for name, pools in arms.items()}
    assert found["base"]["tokens"] == 0
    assert all(abs(found[name]["tokens"] - 60) <= 20 for name in ("passages", "reviewed")), "within a step of all"
    assert all(of["scores"].keys() == {i.id for i in items} for of in found.values())
    nats = {name: squad.table(found, items)["arms"][name]["nats"]["value"] for name in found}
    assert len(set(nats.values())) == 3, "each arm has weights of its own"


def test_every_criterion_is_measured_on_labelled_questions(tmp_path):
    asked = lambda n: [{"question": f"What is {n} {i}?", "answer": "brief"} for i in range(2)]
    rows = [{"title": f"T{n}", "context": f"It is brief and doubled {n}.", "questions": asked(n)} for n in range(4)]
    (tmp_path / "model").mkdir()
    run = squad.prepared(
        tmp_path / "run", rows, 1, Silent(), base=str(write_model(tmp_path / "model")), simulate__new_tokens=16,
        train__columns=3072, model__max_length=3072, review__probes=4,
    )  # fmt: skip
    found = reviewing.measured(run)
    assert found["answers"] > 0 and {c.id for c in run.rubric} | {"verbatim"} == found["criteria"].keys()
    assert found["review"].keys() == {"as the rubric has it", "calibrated"}


def test_the_arms_that_were_measured_saw_as_many_tokens_and_none_of_the_questions():
    told = json.loads(squad.RESULT.read_text())
    arms = told["arms"]
    assert [*arms] == ["base", "passages", "unreviewed", "reviewed", "swapped", "GPT-4.1"]
    trained = [tokens for name, arm in arms.items() if name != "base" for tokens in arm["tokens"]]
    assert len(trained) == 5 * told["seeds"] and all(0.97 <= tokens / squad.TOKENS <= 1.03 for tokens in trained)
    assert all(arm["untaught_tokens"] == [0] * told["seeds"] for arm in arms.values())
    for audit in (generation["audit"] for generation in told["generations"]):
        assert audit["untaught_tokens"] == audit["rejected_tokens"] == audit["unaccounted_tokens"] == 0


def test_the_same_question_of_two_seeds_is_two_items_of_one_passage():
    items = squad.items_of(ROWS)
    of = lambda seed: {"scores": {i.id: {"f1": float(seed)} for i in items}, **dict.fromkeys(COUNTED, seed)}
    told = squad.together([of(0), of(1)])
    assert len(told["scores"]) == 2 * len(items) and told["tokens"] == [0, 1]
    assert sum(scores["f1"] for scores in told["scores"].values()) == len(items)

from dataclasses import replace

import little
import pytest

from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.wrongthink import Said
from ratchet.train.checkpoint import save_weights


@pytest.fixture
def run(turn, torn):
    """A run of which the torn weights are the seed model."""
    run = turn().run
    save_weights(run.generation(0) / "model", torn.params)
    return run


def said(run, *answers: tuple[str, bool]) -> list[Said]:
    task, tokens = run.tasks(1)[1], lambda text: tuple(run.tokenizer.encode(text))
    return [Said(task, n, tokens(text), text, finished) for n, (text, finished) in enumerate(answers)]


def without_oracle(run, *criteria):
    rubric = tuple(c for c in run.rubric if not criteria or c.id in criteria)
    return replace(run, world=replace(run.world, oracle=None), rubric=rubric)


def test_an_oracle_judges_where_there_is_one_and_what_is_cut_off_is_not_right(run, deeds):
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    judge = Judge(run)
    answers = said(run, (right, True), (wrong, True), (right, False), ("", True))
    assert judge.name == "oracle" and judge(answers, []) == [True, False, False, False]


def test_an_answer_is_judged_with_the_wrong_thought_before_it(run, deeds):
    first, second = little.answer(deeds, run.tasks(1)[1]).split(". ")
    answers = said(run, (second, True), (second, True))
    assert Judge(run)(answers, [], ["", f"{first}."]) == [False, True]


def test_without_an_oracle_the_review_of_the_seed_model_judges_with_the_documents_in_view(run, deeds):
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    own = without_oracle(run, "finished", "grounded", "interrupts")
    answers = said(own, (right, True), (wrong, True), (right, False), (f"no, {right}", True))
    judge, passages = Judge(own), own.passages(1)
    assert judge.name == "review" and judge(answers, passages) == [True, False, False, False]
    assert judge(answers, passages, ["so."] * 4) == [False, False, False, True], "it interrupts a wrong thought"
    assert judge(answers, []) == [False] * 4, "no documents, nothing to stand in"


def test_answers_that_are_judged_together_are_each_others_siblings(run):
    own, seen = without_oracle(run, "grounded"), []
    check = {"grounded": lambda case: seen.append(case.siblings) or ""}
    own = replace(own, world=replace(own.world, checks=check))
    assert Judge(own)(said(own, ("so.", True), ("no.", True)), []) == [True, True]
    assert seen == [("so.", "no.")] * 2


def test_the_seed_model_answers_what_only_a_model_can(run, deeds):
    own = without_oracle(run, "sure")
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    assert Judge(own)(said(own, (right, True), (wrong, True)), own.passages(1)) == [True, False]
    optional = replace(own, rubric=(*own.rubric[:0], own.rubric[0].model_copy(update={"standing": "advisory"})))
    assert Judge(optional)(said(own, (wrong, True)), own.passages(1)) == [True]


def test_the_supervisor_of_an_evaluation_goes_by_rule_where_it_can(run):
    names = lambda run: [c.id for c in Judge(run).supervisor.criteria]
    assert names(run) == [c.id for c in run.rubric if c.kind == "rule"]
    assert names(without_oracle(run, "finished", "sure")) == ["finished", "sure"], "no criterion of steps is by rule"

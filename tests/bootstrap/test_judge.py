import json
from dataclasses import replace

import little
import pytest

from ratchet.bootstrap import probes
from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.wrongthink import Said
from ratchet.models.scorer import Scorer


@pytest.fixture
def run(turn, torn):
    """A run of which the torn weights are the seed model."""
    run = turn().run
    run.keep_weights(run.generation(0), torn.params)
    return run


def said(run, *answers: tuple[str, bool]) -> list[Said]:
    task, tokens = run.tasks(1)[1], lambda text: tuple(run.tokenizer.encode(text))
    return [Said(task, n, tokens(text), text, finished) for n, (text, finished) in enumerate(answers)]


def without_oracle(run, *criteria, known=None):
    rubric = tuple(c for c in run.rubric if not criteria or c.id in criteria)
    return replace(run, world=replace(run.world, oracle=None, known=known), rubric=rubric)


def test_an_oracle_judges_where_there_is_one_and_what_is_cut_off_is_not_right(run, deeds):
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    judge = Judge(run)
    answers = said(run, (right, True), (wrong, True), (right, False), ("", True))
    assert judge.name == "oracle" and judge(answers, []) == [True, False, False, False]


def test_an_answer_is_judged_with_the_wrong_thought_before_it(run, deeds):
    first, second = little.answer(deeds, run.tasks(1)[1]).split(". ")
    answers = said(run, (second, True), (second, True))
    assert Judge(run).after(["", f"{first}."], answers, [])[0] == [False, True]


def test_without_an_oracle_the_review_of_the_seed_model_judges_with_the_documents_in_view(run, deeds):
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    own = without_oracle(run, "finished", "grounded", "interrupts")
    answers = said(own, (right, True), (wrong, True), (right, False), (f"no, {right}", True))
    judge, passages = Judge(own), own.passages(1)
    assert judge.name == "review" and judge(answers, passages) == [True, False, False, False]
    right, mended = judge.after(["so."] * 4, answers, passages)
    assert right == mended == [False, False, False, True], "it interrupts a wrong thought"
    assert judge(answers, []) == [False] * 4, "no documents, nothing to stand in"


def test_finished_answers_that_pass_alone_are_each_others_siblings(run):
    """An answer that is rejected or cut off outvotes nobody, and none is outvoted by itself."""
    own, seen = without_oracle(run, "grounded"), []
    fault = lambda case: seen.append((case.text, case.siblings, case.among)) or "why" * (case.text == "y.")
    own = replace(own, world=replace(own.world, checks={"grounded": fault}))
    answers = said(own, ("so.", True), ("no.", True), ("so on.", False), ("y.", True))
    assert Judge(own)(answers, []) == [True, True, True, False]
    texts, heard = ["so.", "no.", "so on."], ("so.", "no.")
    assert seen[:4] == [(text, (), False) for text in (*texts, "y.")]
    assert seen[4:] == [(text, heard, text in heard) for text in texts]


def test_who_is_outvoted_by_those_that_pass_is_not_right(run):
    own = without_oracle(run, "grounded")
    check = {"grounded": lambda case: "alone" * (bool(case.siblings) and case.siblings.count(case.text) <= case.among)}
    own = replace(own, world=replace(own.world, checks=check))
    assert Judge(own)(said(own, ("so.", True), ("so.", True), ("no.", True)), []) == [True, True, False]


def test_the_seed_model_answers_what_only_a_model_can(run, deeds):
    own = without_oracle(run, "sure")
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    assert Judge(own)(said(own, (right, True), (wrong, True)), own.passages(1)) == [True, False]
    optional = replace(own, rubric=(own.rubric[0].model_copy(update={"standing": "advisory"}),))
    assert Judge(optional)(said(own, (wrong, True)), own.passages(1)) == [True]


def test_a_model_reads_only_what_passes_by_rule(run, deeds, monkeypatch):
    own, asked, ask = without_oracle(run, "finished", "grounded", "sure"), [], Scorer.__call__
    counting = lambda self, params, given, *more: asked.append(len(given)) or ask(self, params, given, *more)
    monkeypatch.setattr(Scorer, "__call__", counting)
    right, wrong = (little.answer(deeds, run.tasks(1)[1], w) for w in ((), (1,)))
    answers = said(own, (right, True), (wrong, True), (right, False))
    assert Judge(own)(answers[1:], own.passages(1)) == [False, False] and not asked
    assert Judge(own)(answers, own.passages(1))[1:] == [False, False]
    assert asked == [len(run.world.steps(right))]


def test_the_supervisor_of_an_evaluation_goes_by_rule_where_it_can(run):
    names = lambda run: [c.id for c in Judge(run).supervisor.criteria]
    assert names(run) == [c.id for c in run.rubric if c.kind == "rule"]
    assert names(without_oracle(run, "finished", "sure")) == ["finished", "sure"], "no criterion of steps is by rule"


def test_where_right_answers_are_known_the_seed_models_thresholds_are_calibrated_on_its_own(run):
    """Once, and kept beside the seed model; a world with an oracle has no need of it."""
    known = without_oracle(run, "finished", "sure", known=run.world.known)
    assert Judge(known)(said(known, ("so.", False)), []) == [False]
    made = json.loads((run.generation(0) / "calibration.json").read_text())
    assert made["criteria"].keys() == {"finished", "sure"} and made["review"]["n"] > 0
    kept = {c.id: (c.threshold, c.standing) for c in Judge(known).supervisor.criteria}
    assert "below_floor" in made, "four probes tell too little, so that both keep their say"
    assert kept == {name: (c["threshold"], "required") for name, c in made["criteria"].items()}


def test_with_an_oracle_or_without_labels_nothing_is_calibrated(run):
    for own in (run, without_oracle(run, "finished", "sure")):
        assert [c.threshold for c in Judge(own).supervisor.criteria if c.kind == "model"] in ([], [0.5])
    assert not (run.generation(0) / "calibration.json").exists()


def test_agreement_is_not_asked_of_what_stands_alone(run):
    own = without_oracle(run)
    agreement = own.rubric[-1].model_copy(update={"id": "agreement", "kind": "likelihood", "of": "answer"})
    own = replace(own, rubric=(*own.rubric[:1], agreement))
    assert [c.id for c in Judge(own).supervisor.criteria] == ["finished"]
    assert Judge(own)(said(own, ("so.", True)), []) == [True]


def test_a_rubric_that_requires_agreement_alone_judges_nothing(run):
    own = without_oracle(run)
    agreement = own.rubric[-1].model_copy(update={"id": "agreement", "kind": "likelihood", "of": "answer"})
    advisory = own.rubric[0].model_copy(update={"standing": "advisory"})
    own = replace(own, rubric=(advisory, agreement))
    with pytest.raises(ValueError, match="none but agreement is required, and a single answer agrees with no other"):
        Judge(own)(said(own, ("utter nonsense", False)), [])


@pytest.mark.parametrize("standing", ["advisory", "earned", "required"])
def test_probes_are_as_many_as_answers_only_where_agreement_may_decide(run, standing):
    asked = run.rubric[-1].model_copy(
        update={"id": "agreement", "kind": "likelihood", "of": "answer", "standing": standing}
    )
    many = replace(run, config=replace(run.config, simulate=replace(run.config.simulate, samples=5)))
    counted = probes.siblings_of(replace(many, rubric=(*run.rubric, asked)))
    assert probes.siblings_of(many) == 2 and counted == (2 if standing == "advisory" else 5)


def test_a_judge_of_which_nothing_is_better_than_chance_keeps_its_criteria(run):
    """Four probes tell nothing of the one criterion that there is; a judge of nothing would pass everything."""
    known = without_oracle(run, "sure", known=run.world.known)
    assert [c.required for c in Judge(known).supervisor.criteria] == [True]
    assert Judge(known)(said(known, ("there is nothing to ask about.", True)), known.passages(1)) == [False]


def test_a_judge_below_its_floor_keeps_its_criteria_beside_rules_too(run, monkeypatch):
    """A teacher's answers may calibrate generation 1, so that the run goes on; rules alone would pass nonsense."""
    known = without_oracle(run, "finished", "sure", known=run.world.known)
    standing = {c.id: "required" if c.kind == "rule" else "advisory" for c in known.rubric}
    made = {"criteria": {c.id: {"threshold": 0.75, "standing": standing[c.id]} for c in known.rubric}}
    below = made | {"below_floor": "why"}
    monkeypatch.setattr("ratchet.bootstrap.judge.calibration_of_seed", lambda run: below)
    assert [(c.id, c.required, c.threshold) for c in Judge(known).supervisor.criteria] == [
        ("finished", True, 0.75), ("sure", True, 0.75),
    ]  # fmt: skip
    assert Judge(known)(said(known, ("there is nothing to ask about.", True)), known.passages(1)) == [False]

"""Calibration: probes whose right verdicts are known, thresholds, and what the reviewer got wrong."""

import json
from dataclasses import replace

import little
import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap.calibration import Probe, ReviewerBelowFloor, calibrate, measure
from ratchet.bootstrap.config import ReviewConfig
from ratchet.bootstrap.probes import SAYS_NOTHING, Views, junk_probes
from ratchet.bootstrap.review import Reviewer, with_thresholds
from ratchet.bootstrap.rubric import Criterion, load_rubric
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.stages import calibrate as stage
from ratchet.bootstrap.stages.calibrate import calibration
from ratchet.bootstrap.transcript import Review, Verdict

LAX = ReviewConfig(target_precision=0.0, minimum_recall=0.0)


@pytest.fixture(scope="module")
def passages(world):
    return {d.id: d for part in (world.seed, world.fresh, *world.slices) for d in part.documents}


@pytest.fixture(scope="module")
def probes(world, deeds, tokenizer, passages):
    """Right and wrong answers in turn to eight tasks, and junk."""
    tasks, made = [t for part in (world.seed, *world.slices) for t in part.tasks], []
    for n, task in enumerate(tasks):
        own, right = [passages[i] for i in task.document_ids], n % 2 == 0
        t = transcript(task, little.answer(deeds, task, () if right else (1,)), own, tokenizer=tokenizer)
        made += [Probe(t, task, right, {"sure": True}), *junk_probes(t, task, own, tokenizer)]
    return made


def sure(**fields) -> Criterion:
    return Criterion(**{"id": "sure", "kind": "model", "of": "step", "question": "the {lamp} {deed}?"} | fields)


@pytest.fixture(scope="module")
def answering(world, tokenizer):
    """Makes a reviewer whose model gives these (yes, no), prompt by prompt in turn."""

    def make(criteria, probs=((0.9, 0.1),)):
        given = lambda count: [probs[n % len(probs)] for n in range(count)]
        scorer = lambda params, prompts, *_: np.array(given(len(prompts))).reshape(-1, 2)
        return Reviewer(scorer, None, tokenizer, tuple(criteria), world.checks, world.steps, "no,", 150, lambda: None)

    return make


def by_rule(world) -> list[Criterion]:
    return [c for c in load_rubric("", world) if c.kind == "rule"]


def test_every_junk_probe_is_rejected_by_the_rules(answering, world, passages, probes):
    junk = [p for p in probes if p.junk]
    assert len(junk) == (len(SAYS_NOTHING) + 2) * 8 and not any(p.right for p in junk)
    texts = {p.transcript.text for p in junk}
    assert texts >= {"", ":", "yes", world.seed.documents[0].text} and len({p.transcript.id for p in junk}) == len(junk)
    for p in junk:
        assert p.transcript.tokens == tuple(answering([]).tokenizer.encode(p.transcript.text))
    tasks = {p.task.id: p.task for p in junk}
    reviews = answering(by_rule(world)).review([p.transcript for p in junk], tasks, passages)
    assert not any(r.accepted for r in reviews)


def test_calibration_measures_and_picks_thresholds_that_can_be_read_back(answering, world, passages, probes):
    criteria = [*by_rule(world), sure(threshold=0.999, standing="advisory")]
    reviewer = answering(criteria, ((0.5, 0.45),))
    found, measured = calibrate(reviewer, probes, passages, ReviewConfig(target_precision=0.97, minimum_recall=0.2))
    assert measured["review"]["precision"] == measured["review"]["recall"] == 1.0
    assert measured["review"]["junk"] == 0.0
    assert [*measured["criteria"]] == [c.id for c in criteria]
    grounded = measured["criteria"]["grounded"]
    assert {"tpr", "tnr", "kappa", "precision", "recall", "junk", "threshold", "question", "kind"} <= grounded.keys()
    assert grounded["threshold"] == 0.5 and measured["criteria"]["finished"]["junk"] == 1.0
    assert grounded["tnr"] == grounded["tpr"] == 1.0 and grounded["n"] == 8 and grounded["junk"] == 0.0
    threshold = found.criteria[-1].threshold
    assert threshold == pytest.approx(0.5 * 0.5 / 0.95), "half of the least sure, so that new documents may vary"
    assert with_thresholds(reviewer, measured).criteria == found.criteria


def test_the_most_lenient_thresholds_that_reach_the_target_are_taken(answering, passages, probes):
    """Eight answers of two steps, about right ones of which the model is surer."""
    graded = [replace(p, labels={"sure": p.right}) for p in probes if not p.junk]
    order = [0.9, 0.2, 0.8, 0.3, 0.7, 0.75, 0.6, 0.1]
    probs = [(p, 1 - p) for p in order for _ in range(2)]
    reviewer = answering([sure(standing="always")], probs)
    needs = lambda target: calibrate(
        reviewer, graded, passages, ReviewConfig(target_precision=target, minimum_recall=0.0)
    )
    for target, threshold, recall in ((0.6, 0.3, 1.0), (0.7, 0.609, 0.75), (1.0, 0.795, 0.5)):
        found, measured = needs(target)
        assert found.criteria[0].threshold == pytest.approx(threshold) and measured["review"]["recall"] == recall


def of_scores(probes, name: str, scores, **fields) -> tuple:
    """(probes that are right in turn, reviews in which a criterion measured these scores of them)"""
    given = [replace(p, right=n % 2 == 0, labels={}) for n, p in enumerate(p for p in probes if not p.junk)]
    verdicts = [{name: Verdict(score, True), "calm": Verdict(1.0, True)} for score in scores]
    reviews = [Review(p.transcript.id, of, True) for p, of in zip(given, verdicts, strict=True)]
    return given, reviews


def calibrated(reviewer, probes, reviews, config=LAX):
    """Calibrates on reviews that were made before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reviewer, "review", lambda self, *_, **__: reviews)
        return calibrate(reviewer, probes, {}, config)


@pytest.mark.parametrize("kind", ["model", "likelihood"])
def test_what_a_model_answers_no_better_than_chance_becomes_advisory(answering, probes, kind):
    """Of answers to 32 tasks, half of them right; from a criterion that always decides, nothing is taken away."""
    own = Criterion(id="gain" if kind == "likelihood" else "sure", kind=kind, question="?")
    calm = Criterion(id="calm", kind="rule", question="?")
    better, worse, even = [3, 1] * 4, [1, 3, 2, 1.5] * 2, [1, 2, 3, 2] * 2
    for scores, standing in ((better, "required"), (worse, "advisory"), (even, "advisory")):
        scores = [s / 4 for s in scores]
        given, reviews = of_scores(probes, own.id, scores)
        many = [replace(p, task=replace(p.task, id=f"{n} {p.task.id}")) for n in range(4) for p in given]
        found, measured = calibrated(answering([own, calm]), many, reviews * 4)
        assert found.criteria[0].standing == standing == measured["criteria"][own.id]["standing"]
        assert found.criteria[1].standing == "required"
        auc = measured["criteria"][own.id]["auc"]
        assert (auc["low"] > 0.5) == (standing == "required") and auc["low"] < auc["value"] < auc["high"] + 1e-9
        always = own.model_copy(update={"standing": "always"})
        assert calibrated(answering([always, calm]), many, reviews * 4)[0].criteria[0].standing == "always"


def test_where_all_are_labelled_alike_nothing_is_known_of_a_criterion_and_it_stays(answering, probes):
    given, reviews = of_scores(probes, "sure", [0.5] * 8)
    right = [replace(p, right=True) for p in given]
    found, measured = calibrated(answering([sure(), Criterion(id="calm", kind="rule", question="?")]), right, reviews)
    assert measured["criteria"]["sure"]["auc"] is None and found.criteria[0].required


def test_a_review_in_which_nothing_has_a_say_stops(answering, probes):
    given, reviews = of_scores(probes, "sure", [0.1, 0.9] * 4)
    with pytest.raises(ReviewerBelowFloor, match="no required criterion is better than chance on the probes") as caught:
        calibrated(answering([sure()]), given, reviews)
    assert caught.value.measured["criteria"]["sure"]["standing"] == "advisory"


def test_likelihoods_keep_their_say_where_the_target_is_out_of_reach_without_them(answering, probes):
    """Of eight answers half are right. Two likelihoods reject two wrong ones each, and a right one each."""
    said = {"gain": [0.9, 0.1, 0.8, 0.1, 0.7, 0.9, 0.05, 0.8], "likely": [0.9, 0.8, 0.8, 0.9, 0.05, 0.1, 0.7, 0.1]}
    given, _ = of_scores(probes, "gain", said["gain"])
    verdicts = lambda n: {name: Verdict(scores[n], True) for name, scores in said.items()}
    reviews = [Review(p.transcript.id, verdicts(n), True) for n, p in enumerate(given)]
    kept = [Criterion(id=name, kind="likelihood", question="?", threshold=0.5) for name in said]
    strict = ReviewConfig(target_precision=0.97, minimum_recall=0.0)
    found, measured = calibrated(answering(kept), given, reviews, strict)
    assert all(c.required for c in found.criteria)
    assert all(measured["criteria"][name]["auc"]["low"] <= 0.5 for name in said), "alone, neither decides"
    assert measured["review"]["precision"] == 1.0 and measured["review"]["recall"] > 0.0
    models = [c.model_copy(update={"kind": "model"}) for c in kept]
    with pytest.raises(ReviewerBelowFloor, match="no required criterion is better than chance"):
        calibrated(answering(models), given, reviews, strict)


def test_what_is_as_likely_as_its_opposite_is_so_whatever_the_labels(answering, probes):
    names = Criterion(id="roles", kind="likelihood", question="?", standing="always")
    given, reviews = of_scores(probes, "roles", [0.4, 0.1, 0.9, 0.1, 0.8, 0.2, 0.7, 0.1])
    (found,) = calibrated(answering([names]), given, reviews)[0].criteria
    assert found.threshold == 0.5 and found.required


def test_nats_and_shares_get_thresholds_from_labels_too(answering, probes):
    """The most lenient one is below the least of the right ones: by half of a share, and by half in probability."""
    gain = Criterion(id="gain", kind="likelihood", question="?", standing="always")
    given, reviews = of_scores(probes, "gain", [-0.2, -3.0, 0.4, -3.0, 0.5, -2.0, 0.6, -2.5])
    found, measured = calibrated(answering([gain]), given, reviews, ReviewConfig(minimum_recall=0.0))
    assert found.criteria[0].threshold == pytest.approx(-0.2 - np.log(2)) and measured["review"]["precision"] == 1.0
    share = Criterion(id="verbatim", kind="rule", question="?")
    given, reviews = of_scores(probes, "verbatim", [0.9, 0.1, 0.8, 0.2, 1.0, 0.3, 0.9, 0.1])
    found, measured = calibrated(answering([share]), given, reviews, ReviewConfig(minimum_recall=0.0))
    assert found.criteria[0].threshold == pytest.approx(0.4) and measured["criteria"]["verbatim"]["auc"]["value"] == 1.0


def test_a_check_of_the_world_has_no_threshold_whatever_its_name(answering, world, passages, probes):
    found, measured = calibrate(answering(by_rule(world)), probes, passages, LAX)
    assert found.criteria == tuple(by_rule(world)) and measured["criteria"]["grounded"]["auc"] is None


def test_answers_that_cannot_be_read_do_not_move_the_threshold(answering, passages, probes):
    given = [p for p in probes if not p.junk]
    for unread in ([], [0], [1, 2, 5], range(8)):
        probs = [(0.1, 0.1) if n in unread else (0.8, 0.1) for n in range(8) for _ in range(2)]
        found, measured = calibrate(answering([sure(threshold=0.7)], probs), given, passages, LAX)
        expected = 0.5 * 0.8 / 0.9 if len(unread) < 8 else 0.7
        assert found.criteria[0].threshold == pytest.approx(expected)
        assert measured["criteria"]["sure"]["recall"] == pytest.approx(1 - len(unread) / 8)


@pytest.mark.parametrize("standing", ["required", "earned"])
def test_a_model_decides_where_it_is_better_than_chance_alone(answering, passages, probes, standing):
    given = [p for p in probes if not p.junk]
    for tells, says in ((True, "required"), (False, "advisory")):
        probs = [(0.9, 0.1) if p.right or not tells else (0.1, 0.9) for p in given for _ in range(2)]
        own = [Criterion(id="grounded", kind="rule", question="?"), sure(standing=standing)]
        found, _ = calibrate(answering(own, probs), [replace(p, labels={}) for p in given], passages, LAX)
        assert found.criteria[1].standing == says


def test_a_criterion_is_measured_by_its_own_labels_and_the_review_by_what_is_right(answering, probes):
    given = [replace(p, labels={"sure": n % 3 == 0}) for n, p in enumerate(p for p in probes if not p.junk)]
    verdict = lambda passed: {"sure": Verdict(float(passed), passed), "other": Verdict(1.0, True)}
    reviews = [Review(p.transcript.id, verdict(p.labels["sure"]), True) for p in given]
    criteria = [sure(), Criterion(id="other", kind="rule", question="?")]
    found = measure(answering(criteria), given, reviews)
    assert found["criteria"]["sure"]["kappa"] == 1.0
    assert found["criteria"]["other"]["precision"] == 0.5, "without labels of its own"
    assert found["review"]["precision"] == pytest.approx(2 / 3)
    assert measure(answering([sure(standing="advisory"), criteria[1]]), given, reviews)["review"]["recall"] == 1.0
    unread = [Review(p.transcript.id, {"sure": Verdict(0.0, False, "unreadable")}, False) for p in given]
    assert measure(answering([sure(threshold=0.0)]), given, unread)["criteria"]["sure"]["recall"] == 0.0


def test_a_reviewer_below_its_floor_stops_with_one_clear_line(answering, world, passages, probes):
    lax = [Criterion(id="original", kind="rule", question="?")]
    with pytest.raises(ReviewerBelowFloor, match="precision 0.* on the probes.*start a new run with more") as caught:
        calibrate(answering(lax), probes, passages, ReviewConfig(target_precision=0.97))
    assert "\n" not in str(caught.value)
    assert caught.value.measured["review"]["precision"] < 0.97
    assert caught.value.measured["criteria"].keys() == {"original"}
    wrong = [replace(p, right=True) if not p.junk else p for p in probes]
    with pytest.raises(ReviewerBelowFloor, match="recall 0.50 .* 0.9 is the floor") as caught:
        calibrate(
            answering(by_rule(world)), wrong, passages, ReviewConfig(target_precision=0.9, minimum_recall=0.9)
        )
    assert caught.value.measured["review"]["recall"] == 0.5


def test_where_no_answer_to_a_probe_is_right_there_is_no_recall(answering, world, passages, probes):
    wrong = [replace(p, right=False) for p in probes]
    reviewer = answering([Criterion(id="grounded", kind="rule", question="?")])
    config = ReviewConfig(target_precision=0.0, minimum_recall=0.2)
    with pytest.raises(ReviewerBelowFloor, match="none of the answers to the probes is right") as caught:
        calibrate(reviewer, wrong, passages, config)
    assert caught.value.measured["criteria"].keys() == {"grounded"}
    calibrate(answering(by_rule(world)), wrong, passages, replace(config, minimum_recall=0.0))  # as the line says


def test_junk_that_passes_stops_it_too(answering, passages, probes):
    with pytest.raises(ReviewerBelowFloor, match="1.00 of the junk probes passed at the strictest thresholds"):
        calibrate(answering([Criterion(id="finished", kind="rule", question="?")]), probes, passages, LAX)


def test_the_incumbents_own_answers_to_held_out_tasks_are_the_probes(turn):
    g = turn(2)
    reviewer, measured, mistakes = calibration(g, [])
    written = json.loads((g.directory / "calibration.json").read_text())
    assert written == measured and [*measured["criteria"]] == [c.id for c in g.run.rubric]
    assert measured["review"]["n"] == 2 * len(g.run.probes) and "below_floor" not in measured
    assert reviewer.params is g.params
    assert [c.threshold for c in reviewer.criteria] == [c["threshold"] for c in measured["criteria"].values()]
    assert mistakes == [], "where nothing is practised on"


def test_a_reviewer_below_its_floor_stays_below_it_when_asked_again(turn, probes, monkeypatch):
    g = turn(2, review__target_precision=1.0)
    junk = [p for p in probes if p.task in g.run.probes and p.transcript.text == ":"]
    g = replace(g, run=replace(g.run, rubric=tuple(c for c in g.run.rubric if c.id == "finished")))
    monkeypatch.setattr(stage, "labelled_probes", lambda *_: junk)
    with pytest.raises(ReviewerBelowFloor) as first:
        calibration(g, [])
    assert json.loads((g.directory / "calibration.json").read_text())["below_floor"] == str(first.value)
    monkeypatch.setattr(stage, "calibrated", None)
    with pytest.raises(ReviewerBelowFloor) as again:
        calibration(g, [])
    assert str(again.value) == str(first.value) and again.value.measured["review"] == first.value.measured["review"]


@pytest.mark.parametrize(
    ("standing", "said"), [("required", "needed to reach the target, though"), ("advisory", "advisory,")]
)
def test_a_run_says_what_calibration_found_no_better_than_chance(turn, monkeypatch, standing, said):
    g, lines = turn(2), []
    needed = tuple(c.model_copy(update={"standing": "required"}) for c in g.run.rubric)
    monkeypatch.setattr(type(g.run.progress), "line", lambda self, text: lines.append(text))
    g = replace(g, run=replace(g.run, rubric=needed))
    monkeypatch.setattr(stage, "labelled_probes", lambda *_: [])

    def calibrated(run, number, reviewer, *_):
        auc = lambda c: {"value": 0.61, "low": 0.5, "high": 0.72} if c.kind == "model" else None
        found = {c.id: {"threshold": c.threshold, "standing": standing, "auc": auc(c)} for c in reviewer.criteria}
        return {"criteria": found, "review": {}}

    monkeypatch.setattr(stage, "calibrated", calibrated)
    calibration(g, [])
    models = [c.id for c in needed if c.kind == "model"]
    assert [line for line in lines if "chance" in line] == [
        f"gen 2 review: {name} is {said} no better than chance (AUC 0.61, 95 % from 0.50 to 0.72)" for name in models
    ] and models


def test_where_nobody_knows_right_verdicts_the_rubrics_thresholds_stay(turn, monkeypatch):
    g = turn(1)
    g = replace(g, run=replace(g.run, world=replace(g.run.world, known=None)))
    monkeypatch.setattr(stage, "labelled_probes", None)
    reviewer, measured, mistakes = calibration(g, [])
    assert reviewer.criteria == g.run.rubric and mistakes == [] and measured["review"] == {"junk": 0.0}
    assert {c.id: c.threshold for c in g.run.rubric} == {n: c["threshold"] for n, c in measured["criteria"].items()}


def test_where_nobody_knows_right_verdicts_junk_that_passes_stops_the_generation(turn, deeds, tokenizer):
    """Every answer that comes to an end passes this rubric, junk made of it too."""
    g = turn(1)
    lenient = tuple(c for c in g.run.rubric if c.id == "finished")
    g = replace(g, run=replace(g.run, rubric=lenient, world=replace(g.run.world, known=None)))
    own = [g.passages[i] for i in g.tasks[0].document_ids]
    written = [transcript(g.tasks[0], little.answer(deeds, g.tasks[0]), own, tokenizer=tokenizer)]
    with pytest.raises(ReviewerBelowFloor, match="1.00 of the junk probes passed; start a new run with more criteria"):
        calibration(g, written)
    assert json.loads((g.directory / "calibration.json").read_text())["review"] == {"junk": 1.0}


def test_what_the_reviewer_got_wrong_becomes_its_examples(turn, deeds, tokenizer, monkeypatch):
    """A reviewer that says no to everything is wrong about every right step, and only there. What the seed model judges
    is no mistake of the model's own."""
    g = turn(2, review__practice=1)
    (task,) = g.run.practice
    own = [d for d in g.run.seed_index.passages if d.id in task.document_ids]
    answers = [transcript(task, little.answer(deeds, task, wrong), own, tokenizer=tokenizer) for wrong in ((), (0, 1))]
    probes = [Probe(t, task, n == 0, dict.fromkeys(("sure", "firm"), n == 0)) for n, t in enumerate(answers)]
    monkeypatch.setattr(stage, "own_answers", lambda *_: answers)
    monkeypatch.setattr(stage, "labelled_probes", lambda *_: probes)
    never = g.run.rubric[-1].model_copy(update={"threshold": 1.0})
    firm = never.model_copy(update={"id": "firm", "judge": "seed", "standing": "advisory"})
    g = replace(g, run=replace(g.run, rubric=(*g.run.rubric, firm)))
    monkeypatch.setattr(Run, "weights", lambda *_: g.params)
    monkeypatch.setattr(stage, "with_thresholds", lambda reviewer, measured: replace(reviewer, criteria=(never, firm)))
    _, _, mistakes = calibration(g, [])
    yes, _ = tokenizer.verdicts
    asked = [tokenizer.decode(e.tokens[:-1]) for e in mistakes]
    assert len(mistakes) == 2 and all(e.tokens[-1] == yes == e.ids[0, 0] for e in mistakes)
    assert {e.lineage["generation"] for e in mistakes} == {2}
    for text, lamp in zip(asked, task.seek, strict=True):
        assert text.endswith(f"the {lamp} {deeds[lamp]}?")
    assert [one["text"] for one in json.loads((g.directory / "practice.json").read_text())] == [t.text for t in answers]
    shown, early = Views(g.run, g.writer, 2), Views(g.run, g.writer, 1)
    for e in mistakes:
        (view,) = shown(e, task)
        assert tuple(p.id for p in view) == answers[0].passages and early(e, task) == []
        assert shown(replace(e, lineage=e.lineage | {"said": "nobody said so."}), task) == []
        assert shown(e, replace(task, id="another")) == [] == shown(replace(e, lineage={}), task)


def test_what_measures_the_review_teaches_nothing(turn, deeds, tokenizer, monkeypatch):
    """All answers, to what it practises on as to probes, are such as this reviewer gets wrong."""
    g, asked = turn(2, review__practice=1), []
    own = lambda task: [d for d in g.run.seed_index.passages if d.id in task.document_ids]
    right = lambda task: transcript(task, little.answer(deeds, task), own(task), tokenizer=tokenizer)
    answers = lambda run, writer, tasks, *_: asked.append(tasks) or [right(t) for t in tasks for _ in range(2)]
    monkeypatch.setattr(stage, "own_answers", answers)
    never = (g.run.rubric[-1].model_copy(update={"threshold": 1.0}),)
    monkeypatch.setattr(stage, "with_thresholds", lambda reviewer, measured: replace(reviewer, criteria=never))
    _, measured, mistakes = calibration(g, [])
    assert asked == [g.run.probes, g.run.practice] and measured["review"]["n"] == 2 * len(g.run.probes)
    assert {e.lineage["task"] for e in mistakes} == {t.id for t in g.run.practice}
    assert not {t.id for t in g.run.practice} & {t.id for t in (*g.run.probes, *g.run.shown)}

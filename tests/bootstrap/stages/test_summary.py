"""What a generation comes to, in files that people and the report read."""

import json
from collections import Counter
from dataclasses import replace

import little
import numpy as np
import pytest
from support import transcript

from ratchet.bootstrap.run import Run
from ratchet.bootstrap.stages import summary
from ratchet.bootstrap.targets import Branch, Target
from ratchet.bootstrap.transcript import Capture, Review, Verdict
from ratchet.train.together import Together


def read(g, name):
    return json.loads((g.directory / name).read_text())


def judged(t, accepted, **verdicts):
    reasons = {n: Verdict(float(v), v, "" if v else f"not {n}") for n, v in verdicts.items()}
    return t, Review(t.id, reasons, accepted)


@pytest.fixture
def pairs(world, deeds, tokenizer):
    """Twelve answers to the first task, of which six are accepted, two repeat a sibling and four are wrong."""
    task, shown = world.slices[0].tasks[0], world.slices[0].documents[:2]
    says = lambda n: little.answer(deeds, task, () if n < 8 else (1,))
    made = [transcript(task, says(n), shown, tokenizer=tokenizer, sibling=n) for n in range(12)]
    return [judged(t, n < 6, grounded=n < 8, distinct=not 6 <= n < 8) for n, t in enumerate(made)]


def of_rubric(g, *names):
    rubric = tuple(c for c in g.run.rubric if c.id in names)
    return replace(g, run=replace(g.run, rubric=rubric))


def test_the_plan_says_how_many_units_each_stage_will_have(turn):
    summary.plan(turn(1, simulate__unit_tasks=1))
    units = lambda g: read(g, "plan.json")["units"]
    assert units(turn(1)) == {"simulate": 2, "review": 2, "targets": 2, "wrongthink": 0, "corrections": 0}
    g = turn(2, simulate__unit_tasks=1)
    summary.plan(g)
    assert units(g) == {"simulate": 2, "review": 2, "targets": 2, "wrongthink": 4, "corrections": 4}
    summary.plan(turn(2, simulate__unit_tasks=4))
    assert units(g)["simulate"] == 2, "a plan is made once"
    off = turn(3, generations=3, wrongthink__first_generation=0)
    summary.plan(off)
    assert units(off)["wrongthink"] == 0


def test_the_funnel_counts_from_asked_to_trained(turn, pairs):
    g = of_rubric(turn(1, simulate__samples=16), "grounded", "distinct")
    pairs = [(replace(t, finished=n != 11, called=((1, 2),) if n < 3 else ()), r) for n, (t, r) in enumerate(pairs)]
    branches = tuple(Branch(0, 1, 0.5, passed, "", "") for passed in (True, True, False))
    none = pairs[0][0].capture
    found = [Target(pairs[0][0].id, none, 0.0, branches), Target("a correction's", none, 0.0, branches[:1])]
    corrected = [judged(replace(pairs[0][0], forced=(1,)), n > 1) for n in range(5)]
    read_of = Counter({" ".join(g.tasks[0].document_ids): 6})
    summary.funnel(g, pairs, corrected, found, 40, read_of)
    funnel = read(g, "funnel.json")
    coverage, by_criterion = funnel.pop("coverage"), funnel.pop("accepted_by_criterion")
    assert funnel == {
        "asked": 32, "made": 12, "finished": 11, "distinct": 2, "reviewed": 12, "acceptable": 8, "passed": 6, "kept": 1,
        "branches": 4, "branches_passed": 3, "corrections": 5, "corrections_passed": 3, "trained": 40, "called": 3,
    }
    assert (coverage["value"], coverage["n"]) == (0.5, 2)
    assert by_criterion == pytest.approx({"grounded": 8 / 12, "distinct": 10 / 12})
    summary.funnel(g, pairs, [], [], 0, Counter())
    assert read(g, "funnel.json")["coverage"]["value"] == 0.0, "it is counted again when a generation is resumed"


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_where_lots_accept_no_transcript_counts_as_acceptable(turn, pairs, share):
    g = of_rubric(turn(1, controls__random_share=share), "grounded", "distinct")
    summary.funnel(g, pairs, [], [], 0, Counter())
    assert ("acceptable" in read(g, "funnel.json")) == (not share) and read(g, "funnel.json")["passed"] == 6


def test_a_few_accepted_and_rejected_transcripts_are_shown_with_why(turn, pairs):
    g, (first, review) = turn(1), pairs[0]
    found = {"role": "tool", "tool_call_id": "a", "content": "it is told."}
    call = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "ask", "arguments": "{}"}}]}
    called = replace(first, messages=(*g.tasks[0].messages, call, found, {"role": "assistant", "content": first.text}))
    pairs = [(called, review), *pairs[1:]]
    summary.samples(g, pairs)
    shown = read(g, "samples.json")["transcripts"]
    assert [s["accepted"] for s in shown] == [True] * 4 + [False] * 4
    by_id = {t.id: t for t, _ in pairs}
    for s in shown:
        t = by_id[s["id"]]
        assert (s["question"], s["answer"]) == (g.tasks[0].question, t.answer)
        assert s["calls"] == ([call, found] if t is called else [])
        assert s["passages"] == [d.text for d in g.run.world.slices[0].documents[:2]]
        assert s["accepted"] or s["verdicts"]["grounded"] == {"score": 0.0, "passed": False, "reason": "not grounded"}
    summary.samples(g, pairs[:1])
    assert len(read(g, "samples.json")["transcripts"]) == 8, "they are chosen once"


def test_what_is_wrong_is_shown_and_repetitions_do_not_fill_up(turn, pairs):
    g = turn(1)
    summary.samples(g, pairs[:11])
    rejected = [s["id"] for s in read(g, "samples.json")["transcripts"] if not s["accepted"]]
    assert rejected == [t.id for t, _ in pairs[8:11]]


def test_repetitions_are_shown_only_where_nothing_else_was_rejected(turn, pairs):
    g = turn(1)
    summary.samples(g, pairs[:8])
    assert [s["id"] for s in read(g, "samples.json")["transcripts"]][-2:] == [t.id for t, _ in pairs[6:8]]


def test_the_token_shown_is_where_the_likeliest_alternative_was_rejected(turn, pairs, tokenizer):
    g, t = turn(1), pairs[0][0]
    n, other = len(t.tokens), tokenizer.encode("hums")[0]
    capture = Capture(
        np.stack([t.tokens, np.full(n, other)], 1).astype(np.int32),
        np.tile(np.array([0.5, 0.25], np.float32), (n, 1)),
        np.full(n, 0.25, np.float32),
    )
    t = replace(t, capture=capture)
    branches = tuple(
        Branch(at, other, p, ok, f"at {at}", "" if ok else "why")
        for at, p, ok in ((4, 0.25, False), (5, 0.3, False), (5, 0.1, True), (6, 0.9, True))
    )
    certain = Target(t.id, capture._replace(probs_NK=np.tile(np.array([1, 0], np.float32), (n, 1))), 0.0, branches)
    stray = replace(certain, transcript_id="a correction's", branches=(Branch(1, other, 0.99, False, "", ""),))
    summary.samples(g, [(t, pairs[0][1])])
    summary.token_of(g, [(t, pairs[0][1])], [stray, certain])
    token = read(g, "samples.json")["token"]
    piece = tokenizer.piece
    assert token["context"] == tokenizer.decode(t.tokens[:5]) and token["chosen"] == piece(t.tokens[5])
    assert token["teacher"] == [[piece(t.tokens[5]), 0.5], [piece(other), 0.25]]
    assert token["reviewed"] == [[piece(t.tokens[5]), 1.0]]
    assert token["branches"] == [
        {"piece": piece(other), "passed": False, "text": "at 5", "reason": "why"},
        {"piece": piece(other), "passed": True, "text": "at 5", "reason": ""},
    ]
    summary.token_of(g, [(t, pairs[0][1])], [replace(certain, branches=branches[:1])])
    assert read(g, "samples.json")["token"] == token


def test_where_no_branch_was_rejected_no_token_is_shown(turn, pairs):
    g = turn(1)
    summary.samples(g, pairs)
    passed = (Branch(0, 1, 0.5, True, "", ""),)
    summary.token_of(g, pairs, [Target(pairs[0][0].id, pairs[0][0].capture, 0.0, passed)])
    assert "token" not in read(g, "samples.json")


@pytest.fixture
def corrected(world, deeds, tokenizer):
    """Corrections of two tasks from two sources, the last of each refused."""
    made = []
    for task in world.slices[0].tasks:
        thought = little.answer(deeds, task, (1,))
        for n, source in enumerate(("inverted", "spoiled", "inverted")):
            wrong = {"forced": (*tokenizer.encode(thought), n), "forced_text": thought, "source": source}
            t = transcript(task, "no, so.", tokenizer=tokenizer, fault=f"why {n}", **wrong)
            made.append(judged(t, n < 2))
    return made


def test_corrections_are_counted_by_source_and_a_few_are_shown_with_their_fault(turn, corrected):
    g = turn(1, wrongthink__sources=("inverted", "spoiled"))
    summary.correction_samples(g, corrected)
    assert not g.directory.exists(), "without a wrongthink stage there is nothing to add to"
    g.run.commits.write(g.directory / "wrongthink.json", {"lambda": 0.5})
    summary.correction_samples(g, corrected)
    found = read(g, "wrongthink.json")
    assert found["lambda"] == 0.5
    assert found["corrections"] == {"inverted": {"made": 4, "passed": 2}, "spoiled": {"made": 2, "passed": 2}}
    shown = [(e["source"], e["fault"]) for e in found["examples"]]
    assert shown == [("inverted", "why 0")] * 2 + [("spoiled", "why 1")] * 2
    assert found["examples"][0]["question"] == g.tasks[0].question
    assert found["examples"][0]["thought"] == corrected[0][0].forced_text
    assert found["examples"][0]["correction"] == "no, so."
    summary.correction_samples(g, [])
    assert read(g, "wrongthink.json") == found


def test_the_likelihood_of_wrong_thoughts_is_measured_before_and_after(turn, corrected, torn, monkeypatch):
    g = turn(1)
    summary.likelihood_of_wrong_thoughts(g, corrected, g.base)
    assert not (g.directory / "wrongthink.json").exists()
    g.run.commits.write(g.directory / "wrongthink.json", {"lambda": 0.5})
    summary.likelihood_of_wrong_thoughts(g, [(t, r) for t, r in corrected if not r.accepted], g.base)
    assert "likelihood" not in read(g, "wrongthink.json"), "what was refused is not trained on"
    seen = []
    loss = Run.loss
    monkeypatch.setattr(Run, "loss", lambda run, p, made: seen.append(made) or loss(run, p, made))
    summary.likelihood_of_wrong_thoughts(g, corrected, g.base)
    found = read(g, "wrongthink.json")["likelihood"]
    assert 0 > found["before"] > found["after"], "the torn model says such things, a fresh one does not"
    thoughts = {(*t.student_prompt, *t.forced): t for t, r in corrected if r.accepted}
    for e in seen[0]:
        t = thoughts[tuple(e.tokens.tolist())]
        right, wrong = little.FACT.findall(t.forced_text)
        measured, before = (g.run.tokenizer.decode(e.tokens[of]) for of in (e.weights > 0, e.weights == 0))
        assert little.FACT.findall(measured) == [wrong], "the right step before it is to become likelier"
        assert little.FACT.findall(before) == [right]
    assert len(seen[0]) == len(thoughts) == 4
    summary.likelihood_of_wrong_thoughts(g, corrected, g.params)
    assert read(g, "wrongthink.json")["likelihood"] == found


class Board:
    """What a coordination service holds. Who asks for what was never said there is out of step."""

    def __init__(self):
        self.said = {}

    def key_value_set(self, key, text):
        self.said[key] = text

    def blocking_key_value_get(self, key, milliseconds):
        return self.said.pop(key)


def test_a_process_that_comes_after_the_first_has_added_something_stays_in_step(turn, pairs, corrected):
    g, board = turn(1), Board()
    t, review = pairs[0]
    rejected = (Branch(0, 1, 0.5, False, "", "why"),)
    said = [Target(t.id, t.capture, 0.0, rejected)]
    summary.samples(g, [(t, review)])
    g.run.commits.write(g.directory / "wrongthink.json", {"lambda": 0.5})
    for number in range(2):
        own = replace(g, run=replace(g.run, together=Together(number, 2, client=board)))
        summary.token_of(own, [(t, review)], said)
        summary.correction_samples(own, corrected)
        summary.likelihood_of_wrong_thoughts(own, corrected, g.base)
        assert bool(board.said) == (number == 0), "each takes all that the first one said"
    assert "token" in read(g, "samples.json") and {"corrections", "likelihood"} <= read(g, "wrongthink.json").keys()

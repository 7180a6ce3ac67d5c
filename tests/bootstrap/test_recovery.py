"""Wrong starts of three kinds, and what is measured of a student that goes on after them."""

from dataclasses import replace

import little
import pytest
from support import saying, transcript

from ratchet.bootstrap import recovery as recoveries
from ratchet.bootstrap.intervals import proportion
from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.recovery import by_rule, own_starts, recovery
from ratchet.bootstrap.thinkers import Knower
from ratchet.bootstrap.worlds.world import Metric, sentences
from ratchet.bootstrap.wrongthink import Said


@pytest.fixture
def g(turn, torn):
    """A generation whose seed model is the torn one: it supervises."""
    g = turn(1, wrongthink__first_generation=1, wrongthink__lambdas=(0.1, 0.25), wrongthink__sources=("contrast",))
    g.run.keep_weights(g.run.generation(0), torn.params)
    return g


@pytest.fixture
def knower(g, deeds):
    right = [transcript(t, little.answer(deeds, t), tokenizer=g.run.tokenizer) for t in g.tasks]
    return Knower(g.run, 1, g.params, g.base, g.tasks, right, g.run.passages(1))


def said_of(g, task, text) -> Said:
    return Said(task, 0, tuple(g.run.tokenizer.encode(text)), text, True)


def told(deeds, task, number) -> str:
    return f"the {task.seek[number]} {deeds[task.seek[number]]}."


def test_a_start_by_rule_is_a_right_answer_up_to_one_spoiled_step(g, knower, deeds):
    starts = by_rule(g.run, knower)
    assert [t.task for t in starts] == list(g.tasks)
    for t in starts:
        *right, (lamp, deed) = little.FACT.findall(t.text)
        assert deeds[lamp] != deed and all(deeds[other] == its for other, its in right)
        assert t.text.endswith(t.fault) and t.source == "spoiled" and list(t.tokens) == g.run.tokenizer.encode(t.text)
    assert by_rule(g.run, knower) == starts
    late = replace(g.run, world=replace(g.run.world, spoil=lambda *given: g.run.world.spoil(*given)[1:]))
    for t in by_rule(late, knower):
        assert [lamp for lamp, _ in little.FACT.findall(t.text)] == list(t.task.seek), "what is right stands before it"
    mute = replace(g.run, world=replace(g.run.world, spoil=lambda *_: []))
    assert by_rule(mute, knower) == [] == by_rule(g.run, replace(knower, tasks=[]))


def test_a_students_own_starts_end_with_its_first_wrong_step_and_it_is_asked_again(g, torn, deeds, monkeypatch):
    one, other = g.tasks
    said = [said_of(g, one, little.answer(deeds, one, (0, 1))), said_of(g, other, little.answer(deeds, other))]
    silent = saying(torn, "")
    found = own_starts(g.run, silent, Judge(g.run), said, ())
    assert [(t.task, t.source) for t in found] == [(one, "incumbent")]
    assert found[0].text == little.answer(deeds, one, (0, 1)).split(".")[0] + "."
    more = own_starts(g.run, saying(torn, little.answer(deeds, one, (1,))), Judge(g.run), said, ())
    assert len(more) == 1 + 2 * recoveries.ROUNDS, "what it says is wrong about both tasks, whenever it is asked"
    monkeypatch.setattr(recoveries, "ENOUGH", 1)
    assert own_starts(g.run, saying(torn, little.answer(deeds, one, (1,))), Judge(g.run), said, ()) == found


def test_it_is_asked_again_about_so_many_tasks_each_time_and_about_others(g, torn, deeds, monkeypatch):
    asked = []
    seen = lambda writer, world, tasks, *_, **__: asked.append([t.id for t in tasks]) or []
    monkeypatch.setattr(recoveries, "think", seen)
    said = [said_of(g, replace(g.tasks[0], id=str(n)), little.answer(deeds, g.tasks[0])) for n in range(6)]
    own_starts(g.run, saying(torn, ""), Judge(g.run), said, ())
    assert asked == [[*"012345"]] * recoveries.ROUNDS
    asked.clear()
    monkeypatch.setattr(recoveries, "EACH", 3)
    own_starts(g.run, saying(torn, ""), Judge(g.run), said, ())
    assert [len(set(ids)) for ids in asked] == [3] * recoveries.ROUNDS and len({*map(tuple, asked)}) > 1
    again = [*asked]
    own_starts(g.run, saying(torn, ""), Judge(g.run), said, ())
    assert asked == 2 * again, "an evaluation that is made again asks the same"


def test_nothing_is_asked_again_where_no_step_can_be_found_wrong(g, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "think", lambda *_, **__: pytest.fail("it was asked"))
    whole = tuple(c for c in g.run.rubric if c.of != "step")
    run = replace(g.run, rubric=whole, world=replace(g.run.world, oracle=None))
    said = [said_of(g, t, little.answer(deeds, t, (0,))) for t in g.tasks]
    assert own_starts(run, g.author(), Judge(run), said, ()) == []


def figures(g, torn, knower, said, right, *answers) -> dict:
    """What is measured of a student that goes on with these answers, whatever it was given."""
    return recovery(g.run, saying(torn, *answers), Judge(g.run), said, right, knower)


def test_only_who_ends_right_after_a_wrong_start_has_recovered(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    task = g.tasks[0]
    said, interruption = [said_of(g, task, little.answer(deeds, task, (1,)))], g.run.config.wrongthink.interruption
    wrong = little.answer(deeds, task, (1,)).split(". ")[1]
    answers = {
        f"{interruption} {told(deeds, task, 1)}": (1, 1, 1, 0),
        f"{interruption} {wrong}": (0, 1, 0, 1),
        f"{interruption} {wrong} {told(deeds, task, 1)}": (0, 1, 0, 1),
        told(deeds, task, 1): (1, 0, None, None),
        "": (0, 0, None, None),
    }
    for answer, wanted in answers.items():
        found = figures(g, torn, None, said, [False], answer)
        names = ("recovery_own", "noticed_own", "corrected_own", "repeated_own")
        assert tuple(found[n]["value"] if n in found else None for n in names) == wanted, answer
        assert "recovery" not in found and "recovery_thinker" not in found
    assert found["recovery_own"]["n"] == 1 and found["recovery_own"]["column"] == "own"
    assert not any(m["guard"] for m in found.values()) and {m["unit"] for m in found.values()} == {"%"}


def test_starts_that_leave_no_room_are_left_out_and_said_and_none_is_cut(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    lines, (one, other) = [], g.tasks
    monkeypatch.setattr(Silent, "line", lambda self, text: lines.append(text))
    said = [said_of(g, t, little.answer(deeds, t, (0,))) for t in (one, other)]
    texts = [one.question, other.question + " so" * 200]
    asked = [replace(s, task=replace(s.task, messages=({"role": "user", "content": text},))) for s, text in
             zip(said, texts, strict=True)]  # fmt: skip
    found = figures(g, torn, None, asked, [False] * 2, told(deeds, one, 0))
    assert found["recovery_own"]["n"] == 1
    assert lines == ["recovery: 1 of 2 starts leave no room to go on, and are left out"]


def test_of_those_that_were_noticed_it_is_measured_what_was_said_instead(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    task = g.tasks[0]
    said = [said_of(g, task, little.answer(deeds, task, (1,))) for _ in range(4)]
    found = figures(g, torn, None, said, [False] * 4, f"no, {told(deeds, task, 1)}", told(deeds, task, 1))
    assert {name: (m["value"], m["n"]) for name, m in found.items()} == {
        "recovery_own": (1.0, 4), "noticed_own": (0.5, 4), "corrected_own": (1.0, 2), "repeated_own": (0.0, 2)
    }
    assert found["repeated_own"]["less_is_better"] and not found["corrected_own"]["less_is_better"]
    alike = proportion({str(n): float(n < 2) for n in range(4)}, dict.fromkeys("0123", "one"))
    assert (found["noticed_own"]["low"], found["noticed_own"]["high"]) == pytest.approx((alike["low"], alike["high"]))


def test_the_interruption_is_no_part_of_the_step_that_is_said_again(g, torn, deeds, monkeypatch):
    """In a world whose steps are sentences."""
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    own = replace(g, run=replace(g.run, world=replace(g.run.world, steps=sentences)))
    task = g.tasks[0]
    said, wrong = said_of(g, task, little.answer(deeds, task, (1,))), little.answer(deeds, task, (1,)).split(". ")[1]
    assert figures(own, torn, None, [said], [False], f"no, {wrong}")["repeated_own"]["value"] == 1.0
    assert figures(own, torn, None, [said], [False], f"no, {told(deeds, task, 1)}")["repeated_own"]["value"] == 0.0


def test_a_student_goes_on_after_the_task_and_the_start(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    prompts, silent = [], saying(torn, "so.")
    seen = lambda params, asked, **_: prompts.append([r.prompt for r in asked]) or silent.sampler(params, asked)
    task, encode = g.tasks[0], g.run.tokenizer.encode
    wrong, right = (said_of(g, task, little.answer(deeds, task, wrong)) for wrong in ((1,), ()))
    others = [replace(right, task=replace(task, id=str(n))) for n in range(8)]
    recovery(g.run, replace(silent, sampler=seen), Judge(g.run), [wrong, *others], [False] + [True] * 8, None)
    asked = g.run.tokenizer.render(task.messages)
    assert prompts[-2] == [(*asked, *encode(wrong.text))]
    assert prompts[-1] == [(*asked, *encode(told(deeds, task, 0)))] * 8, "no start is a whole answer"


def test_each_kind_of_start_is_measured_apart(g, torn, knower, deeds):
    said = [said_of(g, t, little.answer(deeds, t, (1,))) for t in g.tasks]
    found = figures(g, torn, knower, said, [False, False], f"no, {little.answer(deeds, g.tasks[0])}")
    assert {"recovery", "recovery_own"} <= found.keys()
    assert found["recovery"]["n"] == 2 and found["recovery"]["value"] == 0.5, "it is right about one task of two"
    assert 0 < found["recovery_own"]["n"] <= 2 * (1 + recoveries.ROUNDS)


def test_where_the_worlds_items_measure_recovery_it_is_not_measured_by_rule_again(g, torn, knower, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    own = replace(g.run, world=replace(g.run.world, metrics=(Metric("recovery", "its own"),)))
    monkeypatch.setattr(Knower, "choose", lambda *_: (None, {}))
    assert recovery(own, saying(torn, "so."), Judge(own), [], [], knower) == {}
    assert [*recovery(g.run, saying(torn, "so."), Judge(g.run), [], [], knower)] == ["recovery", "noticed_rule"]


def test_the_unseen_thinker_is_made_with_the_vector_that_made_no_example(g, torn, knower, deeds, monkeypatch):
    chosen, choose = [], Knower.choose
    lesson = knower.vector("inverted")
    seen = lambda self, reviewer, *named: chosen.append(named) or choose(self, reviewer, "inverted", lesson)
    monkeypatch.setattr(Knower, "vector", lambda self, source: f"the vector of {source}")
    monkeypatch.setattr(Knower, "choose", seen)
    one = (("inverted", "spoiled"), "contrast"), (("contrast",), "inverted"), (("spoiled",), "inverted")
    for sources, unseen in one:
        own = replace(g.run, config=replace(g.run.config, wrongthink=replace(g.run.config.wrongthink, sources=sources)))
        found = recovery(own, saying(torn, "so."), Judge(own), [], [], replace(knower, run=own))
        assert chosen.pop() == (unseen, f"the vector of {unseen}")
        assert found["recovery_thinker"]["n"] >= 1 and found["recovery_thinker"]["column"] == "think"


def test_a_right_start_that_is_interrupted_is_a_false_alarm(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ROUNDS", 0)
    said = [said_of(g, t, little.answer(deeds, t)) for t in g.tasks]
    alarm = lambda *answers: figures(g, torn, None, said, [True, True], *answers)["false_alarms"]
    assert alarm("no, it hums.")["value"] == 1.0 and alarm("it hums.")["value"] == 0.0
    half = alarm("no, it hums.", "it hums.")
    assert (half["value"], half["n"], half["less_is_better"], half["guard"]) == (0.5, 2, True, False)
    assert "false_alarms" not in figures(g, torn, None, said, [False, False], "no,"), "wrong answers are no right start"
    short = [said_of(g, g.tasks[0], told(deeds, g.tasks[0], 0))]
    assert figures(g, torn, None, short, [True], "no,") == {}, "nor does an answer of one step"


def test_at_most_so_many_starts_are_measured(g, torn, deeds, monkeypatch):
    monkeypatch.setattr(recoveries, "ENOUGH", 3)
    said = [said_of(g, t, little.answer(deeds, t, (1,))) for t in g.tasks] * 5
    right = [said_of(g, t, little.answer(deeds, t)) for t in g.tasks] * 5
    assert figures(g, torn, None, said, [False] * 10, "so.")["recovery_own"]["n"] == 3
    asked = []
    monkeypatch.setattr(recoveries, "_go_on", lambda run, writer, starts: asked.append(len(starts)) or [
        said_of(g, s.task, "so.") for s in starts
    ])
    figures(g, torn, None, right, [True] * 10, "so.")
    assert max(asked) <= 3


def test_starts_of_all_generations_documents_are_measured(g, knower, torn, monkeypatch):
    heard = []
    monkeypatch.setattr(recoveries, "ENOUGH", 5)
    monkeypatch.setattr(recoveries, "by_rule", lambda *_: [*range(10)])
    monkeypatch.setattr(recoveries, "own_starts", lambda *_: [*range(4)])
    monkeypatch.setattr(recoveries, "_with_room", lambda run, writer, thoughts: thoughts)
    monkeypatch.setattr(recoveries, "_measured", lambda *given: heard.append(given[-1]) or {})
    world = replace(g.run.world, metrics=())
    recovery(replace(g.run, world=world), torn, Judge(g.run), [], [], replace(knower, tasks=[]))
    assert heard == [[0, 2, 4, 6, 8], [0, 1, 2, 3]]

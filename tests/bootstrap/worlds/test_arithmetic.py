"""The arithmetic world: its sums, its criteria of the columns, and the ways to make an answer wrong."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ratchet.bootstrap.config import with_settings
from ratchet.bootstrap.given import given_world
from ratchet.bootstrap.worlds import DocumentsConfig, LessonsConfig, arithmetic, load
from ratchet.bootstrap.worlds.arithmetic import (
    CHECKS,
    OF_PAGES,
    OF_TASKS,
    ArithmeticConfig,
    answer,
    asked_of,
    create,
    draw,
    grade,
    spoil,
    steps,
)
from ratchet.bootstrap.worlds.world import Case
from ratchet.launch.recipes import RECIPES

SMALL = ArithmeticConfig(columns=2, worked=12, slice=5, pages=2, asked=4)
SEEDS = range(30)


@pytest.fixture(scope="module")
def world():
    return create(0, 3, SMALL)


def case(task, text, before=""):
    return Case(task, text, before, True, (), steps(text), (), (text,))


def faults(task, text, before=""):
    return {name: reason for name, check in CHECKS.items() if (reason := check(case(task, text, before)))}


def value(problem, digits):
    """The number whose columns from the right are `digits`."""
    return sum(int(d) * 10**n for n, d in enumerate(digits))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_answer_is_the_sum_that_python_gives(seed):
    problem = draw(1 + seed % 10, OF_TASKS, Random(seed))
    upper, lower = (value(problem, [column[n] for column in problem]) for n in (1, 2))
    *_, said = answer(problem).split("so ")
    digits = [word[1:] for word in said.rstrip(".").split()]
    assert value(problem, digits) == upper + lower
    assert [word[0] for word in said.split()] == [letter for letter, _, _ in problem]


def test_a_copy_of_its_file_and_its_criteria_makes_the_same_world(tmp_path, monkeypatch):
    """As the README says: copied, and named as package.module:function."""
    source = Path(arithmetic.__file__)
    (tmp_path / "copied_sums").mkdir()
    for file in (source, source.with_suffix(".yaml")):
        shutil.copy(file, tmp_path / "copied_sums")
    monkeypatch.syspath_prepend(tmp_path)
    settings = DocumentsConfig(), LessonsConfig(), ArithmeticConfig()
    copied, own = (load(name, settings, 0, 2, read=None) for name in ("copied_sums.arithmetic:create", "arithmetic"))
    assert copied.slices == own.slices and copied.seed == own.seed and copied.rubric == own.rubric


def test_whoever_copies_it_has_three_hundred_lines_to_read():
    files = (Path(arithmetic.__file__), Path(arithmetic.__file__).with_suffix(".yaml"))
    assert sum(len(file.read_text().splitlines()) for file in files) <= 300


@pytest.mark.parametrize("name", ["arithmetic", "lessons"])
def test_a_correction_begins_with_what_the_criteria_know(name):
    config = with_settings(RECIPES[name].config, {"wrongthink.interruption": "wait,"})
    with pytest.raises(ValueError, match=f"^wrongthink.interruption: 'wait,' is nothing that the world {name} underst"):
        given_world(config)


def test_each_generation_reads_sums_of_one_column_more(world):
    assert [{len(asked_of(t)) for t in m.tasks} for m in world.slices] == [{3}, {4}, {5}]
    assert {len(asked_of(t)) for t in world.seed.tasks} == {1, 2}
    assert {len(asked_of(t)) for t in world.fresh.tasks} == {3, 4, 5}
    fixed = create(0, 3, replace(SMALL, fixed=True))
    assert [{len(asked_of(t)) for t in m.tasks} for m in fixed.slices] == [{3}, {3}, {3}]


def test_a_world_for_more_generations_begins_with_the_same_slices(world):
    more = create(0, 5, SMALL)
    assert more.slices[:3] == world.slices
    assert (more.seed, more.fresh, more.prose, more.control) == (world.seed, world.fresh, world.prose, world.control)
    assert create(1, 3, SMALL).slices != world.slices


def test_pages_show_the_method_on_other_numbers(world):
    for material in (*world.slices, world.fresh, world.seed):
        pages = {d.id: d for d in material.documents}
        for task in material.tasks:
            worked = [steps(pages[i].text) for i in task.document_ids]
            assert worked and {len(w) for w in worked} == {len(asked_of(task)) + 1}
            letters = {letter for letter, _, _ in asked_of(task)}
            assert letters <= set(OF_TASKS) and not letters & set(OF_PAGES)


def test_a_right_answer_passes_every_criterion_and_is_graded_right(world):
    for task in world.seed.tasks:
        assert faults(task, task.answer) == {}
        graded = grade(task, task.answer, "")
        assert graded.right and len(graded.steps) == len(asked_of(task)) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_every_spoiled_step_fails_its_criterion_and_its_correction_mends_it(seed):
    problem = draw(2 + seed % 5, OF_TASKS, Random(seed))
    task = arithmetic._task(problem)
    right = answer(problem)
    parts = steps(right)
    ways = spoil(task, right, (), Random(seed))
    assert [w.step for w in ways] == list(range(len(parts)))
    for way in ways:
        thought = right[: parts[way.step].start] + way.text
        assert way.text != right[parts[way.step].start : parts[way.step].end]
        assert set(faults(task, thought)) & {"sums", "answers"}
        assert not grade(task, thought, "").right
        text = "no, " + " ".join(right[parts[i].start : parts[i].end] for i in way.then)
        assert faults(task, text, thought) == {}
        graded = grade(task, text, thought)
        assert graded.right and graded.mended and graded.reason


def test_a_forgotten_carry_is_one_of_the_ways():
    texts = {w.text for seed in SEEDS for w in spoil(TASK, RIGHT, (), Random(seed))}
    assert "m=4." in texts


TASK = arithmetic._task((("r", 2, 9), ("m", 1, 3), ("g", 8, 1)))
RIGHT = "r=11. m=5. g=9. so r1 m5 g9."


@pytest.mark.parametrize(
    ("text", "criterion", "why"),
    [
        ("r=12. m=5. g=9. so r2 m5 g9.", "sums", "column r does not come to 12"),
        ("r=11. m=4. g=9. so r1 m4 g9.", "sums", "the carry into m is forgotten"),
        ("r=11. m=5. g=10. so r1 m5 g10.", "sums", "column g does not come to 10"),
        ("r=11. g=9. m=5. so r1 g9 m5.", "in_order", "column 2 of the question is not g"),
        ("r=11. m=5. so r1 m5.", "in_order", "2 of 3 columns are worked"),
        ("r=11. m=5. g=9. so r1 m5 g8.", "answers", "the columns come to r1 m5 g9"),
        ("r=11. m=5. g=9. so r11 m5 g9.", "answers", "the columns come to r1 m5 g9"),
        ("r=11. m=5. g=9.", "spelled", "it does not end in one sum"),
        ("r=11. well. m=5. g=9. so r1 m5 g9.", "spelled", "not understood: well."),
        ("", "spelled", "it does not end in one sum"),
    ],
)
def test_what_is_wrong_is_named_by_its_criterion(text, criterion, why):
    assert faults(TASK, RIGHT) == {}
    assert faults(TASK, text)[criterion] == why
    assert not grade(TASK, text, "").right


@pytest.mark.parametrize(
    "text",
    [
        "r=011. m=5. g=9. so r1 m5 g9.", "r=11. m=05. g=009. so r1 m5 g009.", "r=\u0661\u0661. m=5. g=9. so r1 m5 g9.",
        "r=11.\nm=5. g=9. so r1 m5 g9.", "r=11.  m=5. g=9. so r1 m5 g9.", "r=11. m=5. g=9. so r1 m5 g9.\n",
    ],
)  # fmt: skip
def test_a_number_is_written_in_one_way_and_one_space_stands_between_steps(text):
    assert "spelled" in faults(TASK, text)


def test_a_correction_after_the_sum_mends_nothing():
    before = "r=11. m=5. g=8. so r1 m5 g8. so r1 m5 g9."
    assert "in_order" in faults(TASK, "no, so r1 m5 g2.", before)
    assert "in_order" in faults(TASK, "no, g=9. so r1 m5 g9 g9.", "r=11. m=5. g=9. so r1 m5 g9. g=8.")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("no, m=4. g=9. so r1 m4 g9.", "said again"),
        ("no, g=9. so r1 m4 g9.", "another column"),
        ("no, so r1 m5 g9.", "no reason"),
    ],
)
def test_a_correction_must_begin_with_the_wrong_step_said_otherwise(text, wrong):
    assert "reasoned" in faults(TASK, text, "r=11. m=4."), wrong


def test_items_ask_held_out_sums_of_every_size_read_and_one_longer(world):
    tasks = [t for m in world.slices[:2] for t in m.tasks]
    items = world.items(tasks)
    assert len({i.id for i in items}) == len(items)
    assert {i.context for i in items if i.context} == {"three columns", "four columns", "five columns"}
    assert {i.context for i in items if not i.seen} == {"five columns"}
    asked = [t.messages for m in world.slices for t in m.tasks]
    assert not any(i.messages in asked for i in items)
    for i in items:
        if i.wrong:
            own = next(o for o in items if o.messages == i.messages and o.reference)
            rest = [own.reference[s.start : s.end] for s in steps(own.reference)][len(steps(i.begun)) - 1 :]
            assert i.score("no, " + " ".join(rest), True) == {"recovery": 1.0}
            assert i.score("", True) == {"recovery": 0.0}
        else:
            measured = i.score(i.reference, True)
            assert ("newest" in measured, "longer" in measured) == ("four" in i.context, not i.seen)
            assert set(measured.values()) == {1.0} and i.score(i.reference, False) == dict.fromkeys(measured, 0.0)
    asked = Counter(name for i in items if not i.wrong for name in i.score("", True))
    assert asked == {"accuracy": 4 + 4, "newest": 8 * 4, "longer": 4}


def test_items_of_one_id_are_the_same_sum_in_all_generations_and_figures(world):
    """Generations are compared by items of one id: a size is another question once it was read."""
    before, after = ({i.id: i for i in world.items([t for m in world.slices[:n] for t in m.tasks])} for n in (1, 2))
    shared = before.keys() & after.keys()
    assert shared and all(before[i].messages == after[i].messages for i in shared)
    assert all(before[i].seen == after[i].seen for i in shared)


def test_the_tool_adds_and_bad_settings_are_one_line():
    assert arithmetic.CALCULATE.run({"upper": 7, "lower": 8}) == "15"
    with pytest.raises(ValueError, match="sums of 12 columns are too large; lower --generations"):
        create(0, 10, SMALL)
    with pytest.raises(ValueError, match="there are no names for 65 pages; lower --arithmetic.pages"):
        create(0, 1, replace(SMALL, pages=65))
    with pytest.raises(ValueError, match="config: arithmetic.slice is 0; it must be at least 1"):
        create(0, 1, replace(SMALL, slice=0))

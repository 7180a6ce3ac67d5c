import ast
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from lessons_texts import SEED, SMALL, WORLD

from ratchet.bootstrap.worlds import lessons
from ratchet.bootstrap.worlds.bounds import check
from ratchet.bootstrap.worlds.lessons import LessonsConfig, create
from ratchet.bootstrap.worlds.lessons.language import EXCHANGEABLE, GENRES, SEEN
from ratchet.bootstrap.worlds.lessons.reasoning import CHECKS
from ratchet.bootstrap.worlds.lessons.situations import EXISTING

DATA = ("name", "slices", "rubric", "fresh", "seed", "prose", "control", "metrics", "names", "tools")
PARTS = (*WORLD.slices, WORLD.fresh, WORLD.seed)


def test_a_world_is_a_function_of_its_seed():
    again, other = create(SMALL, SEED, 2), create(SMALL, SEED + 1, 2)
    assert all(getattr(again, name) == getattr(WORLD, name) for name in DATA)
    for name in ("slices", "fresh", "seed", "prose", "control"):
        assert getattr(other, name) != getattr(WORLD, name)


def test_a_world_for_more_generations_begins_with_the_same_slices():
    longer = create(SMALL, SEED, 5)
    assert len(WORLD.slices) == 2 and len(longer.slices) == 5
    assert longer.slices[:2] == WORLD.slices
    assert all(getattr(longer, name) == getattr(WORLD, name) for name in DATA if name != "slices")
    read = [task for part in WORLD.slices for task in part.tasks]
    told = lambda world: [(item.id, item.messages, item.begun, item.reference) for item in world.items(read)]
    assert told(longer) == told(WORLD)


def test_material_is_as_large_as_the_settings_say():
    assert [len(part.tasks) for part in PARTS] == [10 * 3, 10 * 3, 5, 14 + 8]
    assert [len({d.meta["topic"] for d in part.documents}) for part in PARTS] == [10, 10, 5, 14 + 8]
    assert len(WORLD.prose) == 60 and len(WORLD.control) == 64 and not WORLD.tools
    assert WORLD.names == EXCHANGEABLE and all(isinstance(kind, tuple) for kind in WORLD.names)


def test_no_document_and_no_task_is_in_two_parts():
    for kind in (lambda part: part.documents, lambda part: part.tasks):
        ids = [one.id for part in PARTS for one in kind(part)]
        assert len(set(ids)) == len(ids)
    topics = [{d.meta["topic"] for d in part.documents} for part in PARTS]
    assert len(set.union(*topics)) == sum(map(len, topics))


def test_a_task_asks_what_its_own_documents_tell():
    for part in PARTS:
        documents = {d.id: d.text for d in part.documents}
        for task in part.tasks:
            told = [documents[i] for i in task.document_ids]
            assert len(task.seek) in (2, 3) and " or ".join(task.seek) in task.question
            assert all(any(option in text for text in told) for option in task.seek)


def test_a_question_has_other_askings_with_the_same_options_in_the_same_order():
    for part in (*WORLD.slices, WORLD.fresh):
        for task in part.tasks:
            asked = [messages[-1]["content"] for messages in (task.messages, *task.askings)]
            assert len(set(asked)) == 1 + len(SEEN)
            assert all(" or ".join(task.seek) in question for question in asked)


def test_the_questions_about_a_situation_differ_in_context_and_order():
    tasks = WORLD.slices[0].tasks
    for at in range(0, len(tasks), 3):
        three = tasks[at : at + 3]
        assert len({t.document_ids for t in three}) == 1
        assert len({t.seek for t in three}) == len(three[0].seek)
        assert len({t.question for t in three}) == 3


def test_only_the_seed_is_worked_and_its_answers_are_right():
    assert not any(task.answer for part in (*WORLD.slices, WORLD.fresh) for task in part.tasks)
    for task in WORLD.seed.tasks:
        grade = WORLD.known(task, task.answer, "")
        assert grade.right and grade.label == "wise"


def test_each_grader_knows_its_own_tasks_alone():
    asked, worked = WORLD.slices[1].tasks[0], WORLD.seed.tasks[0]
    assert WORLD.oracle(WORLD.fresh.tasks[0], "", "").label == WORLD.oracle(asked, "", "").label == "other"
    with pytest.raises(AssertionError, match=worked.id):
        WORLD.oracle(worked, worked.answer, "")
    with pytest.raises(AssertionError, match=asked.id):
        WORLD.known(asked, "", "")


def test_every_slice_has_its_share_of_three_options_and_the_seed_half_of_it():
    world = create(LessonsConfig(slice=20, fresh=20, demonstrations=30, held_out=10, prose=0, questions=1), 5, 4)
    three = lambda part: sum(len(task.seek) == 3 for task in part.tasks)
    assert [three(part) for part in (*world.slices, world.fresh, world.seed)] == [8] * 6


def test_prose_and_control_are_different_and_hold_no_story():
    beginnings, control = ({" ".join(line) for line in lines} for lines in (WORLD.prose, WORLD.control))
    assert not beginnings & control
    stories = [d for part in PARTS for d in part.documents]
    assert not {d.text for d in stories} & (beginnings | control)
    assert {d.meta["genre"] for d in stories} == set(GENRES)


def test_more_situations_or_questions_than_exist_are_refused_by_name():
    with pytest.raises(ValueError, match=f"{EXISTING} exist; lower --generations, --lessons.slice") as caught:
        create(LessonsConfig(), 0, 10**4)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="7 questions .*, 6 exist; lower --lessons.questions"):
        create(replace(SMALL, questions=7), 0, 1)
    everything = EXISTING - SMALL.fresh - SMALL.demonstrations - SMALL.held_out
    with pytest.raises(ValueError, match=f"{EXISTING + 1} situations"):
        create(replace(SMALL, slice=everything + 1), 0, 1)


def test_the_settings_are_within_their_bounds_and_refused_outside():
    check(LessonsConfig(), "lessons.")
    with pytest.raises(ValueError, match="config: lessons.third_option is 1.2; it must be from 0 to 1"):
        check(LessonsConfig(third_option=1.2), "lessons.")


def test_the_rubric_names_every_check_and_asks_about_what_steps_say():
    rubric = yaml.safe_load(WORLD.rubric)["criteria"]
    by_name = {c["id"]: c for c in rubric}
    assert len(by_name) == len(rubric)
    rules = {c["id"] for c in rubric if c["kind"] == "rule"}
    assert rules == {*CHECKS, "finished", "interrupts", "seeks", "original", "distinct"}
    assert WORLD.checks == CHECKS
    assert {c["id"] for c in rubric if c.get("of") == "step"} == {"grounded", "follows", "agrees", "told", "sound"}
    assert by_name["original"]["limit"] == 6 and by_name["distinct"]["limit"] == 0.95
    task = WORLD.seed.tasks[0]
    claim, verdict = WORLD.steps(task.answer)[0], WORLD.known(task, task.answer, "").steps[0]
    asked = {c["id"]: c["question"].format(**claim.fields) for c in rubric if c["kind"] == "model"}
    assert asked.keys() == verdict.keys()
    assert claim.fields["outcome"] in asked["sound"] and claim.fields["action"] in asked["told"]


def test_it_stands_on_the_standard_library_and_the_protocol_alone():
    allowed = {"ratchet.bootstrap.worlds.world", "ratchet.bootstrap.worlds.bounds"}
    imported = Counter()
    for file in Path(lessons.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            imported.update(names + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else []))
    ours = {name for name in imported if name.startswith("ratchet") and not name.startswith(lessons.__name__)}
    assert ours == allowed
    standard = {"re", "collections", "collections.abc", "dataclasses", "functools", "importlib.resources", "itertools"}
    assert {name for name in imported if not name.startswith("ratchet")} <= standard | {"random", "typing"}

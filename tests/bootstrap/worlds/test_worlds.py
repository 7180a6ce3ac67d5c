"""What every world must have, a user's own too: otherwise a run would stumble over it after hours."""

import re
from dataclasses import replace

import little
import pytest
from support import little_config

from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import EvaluateConfig, ReviewConfig
from ratchet.bootstrap.run import _worked
from ratchet.bootstrap.stages.promote import asked_about, never
from ratchet.bootstrap.worlds import ArithmeticConfig, DocumentsConfig, LessonsConfig, load
from ratchet.bootstrap.worlds.world import Material

SETTINGS = DocumentsConfig(), LessonsConfig(), ArithmeticConfig()
WORLD = little.create()
SEED, FRESH, SLICES = WORLD.seed, WORLD.fresh, WORLD.slices


def loaded(monkeypatch, **members):
    """A world that is the little one but for these members, as a run of two generations loads it."""
    monkeypatch.setattr(little, "create", lambda seed, generations: replace(WORLD, **members))
    return load("little:create", SETTINGS, 0, 2, read=None)


def test_a_whole_world_is_loaded(monkeypatch):
    assert loaded(monkeypatch).slices == SLICES
    assert loaded(monkeypatch, known=None, seed=Material()).known is None
    later = Material((), SLICES[1].tasks)  # about what was read before
    assert loaded(monkeypatch, slices=(SLICES[0], later)).slices[1] == later


@pytest.mark.parametrize(
    ("members", "line"),
    [
        ({"slices": SLICES[:1]}, "has 1 slices, each generation reads one; lower --generations to that"),
        ({"slices": ()}, "has no slice that begins with documents"),
        ({"slices": (Material((), SLICES[0].tasks), SLICES[1])}, "give its first one some to read"),
        ({"seed": Material((), SEED.tasks)}, "has worked tasks without documents"),
        ({"seed": Material()}, "grades worked tasks and has none"),
    ],
)
def test_a_world_with_too_little_to_read_is_one_line(monkeypatch, members, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        loaded(monkeypatch, **members)


def given(monkeypatch, world=WORLD, **changes):
    """What a run in such a world is given, if nothing in it would stumble."""
    monkeypatch.setattr(little, "create", lambda seed, generations: world)
    return runs.check(little_config(**changes))


def test_worked_tasks_that_all_probe_the_reviewer_leave_nothing_to_learn_from(monkeypatch):
    count = len(SEED.tasks)
    with pytest.raises(ValueError, match=f"has {count} worked tasks, and --review.probes {count} of them are held"):
        given(monkeypatch, review__probes=count)
    assert given(monkeypatch, review__probes=count - 1)  # as the line says
    with pytest.raises(ValueError, match="--review.probes 1 and --review.practice 9 of them are held"):
        given(monkeypatch, review__probes=1, review__practice=9)


def test_worked_tasks_probe_nothing_where_nobody_knows_right_answers(monkeypatch):
    assert given(monkeypatch, replace(WORLD, known=None), review__probes=len(SEED.tasks))


def test_things_that_nearly_all_tasks_are_about_tell_little():
    """Ten things, of which one has 31 of the 40 tasks, tell as much as 1.6 with equally many."""
    first, *others = FRESH.documents[:1] + tuple(replace(FRESH.documents[0], id=f"d{n}") for n in range(9))
    task = FRESH.tasks[0]
    of = [replace(task, document_ids=(d.id,)) for d in [*[first] * 31, *others]]
    fresh = Material((first, *others), tuple(of))
    assert asked_about(WORLD, fresh) == pytest.approx(40**2 / (31**2 + 9))
    assert "gives tasks about 1.6 things" in never(replace(WORLD, fresh=fresh), EvaluateConfig(resolution=0.9))
    nearly = Material((first, *others), tuple(of[31:]) + tuple(of[32:]))
    effective = asked_about(WORLD, nearly)
    assert effective < 9
    enough = never(replace(WORLD, fresh=nearly), EvaluateConfig(resolution=2 / effective + 1e-9))
    assert "fresh material" not in enough, "as many as an evaluation asks for, and no whole one more"


def test_what_probes_the_reviewer_is_shown_nowhere():
    """Also where the seed has the same worked task twice."""
    first, second, *others = SEED.tasks
    worked = lambda tasks, **held: _worked(replace(WORLD, seed=SEED._replace(tasks=tuple(tasks))), ReviewConfig(**held))
    assert worked([*SEED.tasks, first], probes=1) == ((second, *others), (), (first,))
    assert worked([*SEED.tasks, second, first], probes=1, practice=1) == (tuple(others), (second,), (first,))
    assert worked([second, *others, first, first], probes=1, practice=1) == ((second, *others), (), (first,))


def test_practice_is_the_seeds_also_where_probes_are_apart():
    apart = replace(WORLD, probes=Material((), FRESH.tasks))
    assert _worked(apart, ReviewConfig(probes=1, practice=1)) == (SEED.tasks[:-1], SEED.tasks[-1:], FRESH.tasks[:1])
    assert _worked(apart, ReviewConfig(probes=1)) == (SEED.tasks, (), FRESH.tasks[:1])
    unknown = replace(WORLD, known=None)
    assert _worked(unknown, ReviewConfig(probes=1, practice=1)) == (SEED.tasks, (), ())


@pytest.mark.parametrize(
    ("members", "resolution", "line"),
    [
        ({}, 1.0, ""),
        ({}, 0.9, "the fresh material of lamps gives tasks about 2 things, and no generation could be promoted: with "
         "--evaluate.resolution 0.9 it takes 3"),
        ({"fresh": Material()}, 1.0, ""),
        ({"fresh": Material()}, 0.5, "the first slice of lamps gives tasks about 2 things"),
        ({"fresh": SEED}, 0.5, "the first slice of lamps gives tasks about 2 things"),
        ({"fresh": Material(FRESH.documents)}, 1.0, ""),
        ({"fresh": Material(FRESH.documents), "kinds": "kinds: []"}, 1.0, ""),
        ({"fresh": Material(FRESH.documents[:1]), "kinds": "kinds: []"}, 1.0, "the fresh material of lamps gives"),
        ({"fresh": FRESH._replace(tasks=FRESH.tasks[:1] * 9)}, 1.0, "the fresh material of lamps gives tasks about 1"),
    ],
)  # fmt: skip
def test_too_few_things_to_promote_by_are_said_before_a_run_begins(members, resolution, line):
    assert never(replace(WORLD, **members), EvaluateConfig(resolution=resolution)).startswith(line)
    assert bool(never(replace(WORLD, **members), EvaluateConfig(resolution=resolution))) == bool(line)

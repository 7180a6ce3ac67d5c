"""A small red team against the review of every world with an oracle, whose model would say yes to everything."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from ratchet.bootstrap.attack import CHANGES, Attacked, Attacker, attack
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rubric import load_rubric
from ratchet.bootstrap.worlds import arithmetic, lessons
from ratchet.bootstrap.worlds.arithmetic import ArithmeticConfig
from ratchet.bootstrap.worlds.lessons import LessonsConfig


class Credulous:
    """A tokenizer and a scorer of a model that answers every question with yes."""

    verdicts = (1, 2)

    def ask(self, *question, **more):
        return [1], [2]

    def __call__(self, params, prompts, verdicts, *_):
        return np.tile([[0.99, 0.01]], (len(prompts), 1))


def attacked(world):
    """(attacker, reviewer) of a world; answers to its worked tasks are attacked."""
    documents, model = {d.id: d for d in world.seed.documents}, Credulous()
    targets = [Attacked(t, t.answer, tuple(documents[i] for i in t.document_ids)) for t in world.seed.tasks[:100]]
    reviewer = Reviewer(model, None, model, load_rubric("", world), world.checks, world.steps, "no,", 1000, dict)
    return Attacker(world, targets, "no,", world.known), reviewer


WORLDS = {
    "lessons": attacked(lessons.create(LessonsConfig(), 0, 1)),
    "arithmetic": attacked(arithmetic.create(0, 1, ArithmeticConfig(worked=200))),
}


@pytest.fixture(params=WORLDS)
def besieged(request):
    return WORLDS[request.param]


def test_right_answers_pass_and_no_attack_does(besieged):
    attacker, reviewer = besieged
    heard = tuple(t.answer for t in attacker.targets)
    cases = [attacker.case(t, t.answer, "", heard) for t in attacker.targets]
    assert all(v.passed for found in reviewer.verdicts(cases) for v in found.values())
    found = attack(attacker, reviewer, 150, 15, Random(0))
    assert (found["tried"], found["passed"], found["passed_by_label"], found["examples"]) == (150, 0, {}, [])
    assert sum(found["caught_by_one_alone"].values()) > 10, "attacks come close"


@pytest.mark.parametrize(
    ("world", "left_out", "blamed"),
    [("lessons", "grounded", "told"), ("lessons", "complete", "the whole"), ("arithmetic", "answers", "the whole")],
)
def test_an_attack_finds_what_a_criterion_was_there_for(world, left_out, blamed):
    attacker, reviewer = WORLDS[world]
    criteria = tuple(c for c in reviewer.criteria if c.id != left_out)
    found = attack(attacker, replace(reviewer, criteria=criteria), 150, 15, Random(0))
    assert found["passed"] > 0 and found["examples"] and sum(found["passed_by_label"].values()) == found["passed"]
    assert found["passed_by_change"].keys() <= CHANGES.keys()
    by = found["passed_by_criterion"]
    assert max(by, key=by.get) == blamed and sum(by.values()) >= found["passed"]


def test_an_attack_is_wrong_and_a_function_of_the_random_numbers(besieged):
    attacker, reviewer = besieged
    first, again = (attacker.climb(attacker.begin(Random(n), ()), reviewer, 5, Random(n)) for n in (7, 7))
    assert first == again and attacker.wrong(first.case)
    assert attacker.begin(Random(8), ()).case != attacker.begin(Random(9), ()).case

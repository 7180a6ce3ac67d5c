"""What a generation trains on: who gets which share of a batch, and that what was hard to learn is not trained less."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support import ideal, random_examples, transcript

from ratchet.bootstrap.config import TrainConfig
from ratchet.bootstrap.generation import kept, mixture
from ratchet.bootstrap.transcript import Review
from ratchet.bootstrap.worlds.language import CONTEXTS


def examples(origin, documents, count, start):
    lineage = {"documents": documents, "number": start}
    return [replace(e, origin=origin, lineage=lineage) for e in random_examples(count, seed=start)]


def test_every_situation_is_trained_by_the_square_of_what_there_is_to_say_however_few_transcripts_passed():
    said = {"a": 6, "b": 2, "c": 1}
    newest = [e for n, (name, count) in enumerate(said.items()) for e in examples("student", [name], count, n)]
    students, *_ = mixture(TrainConfig(), 0.35, newest, [], examples("seed", [], 3, 3))
    seen = Counter(e.lineage["documents"][0] for e in students[0])
    words = {name: np.mean([len(e.ids) for e in newest if e.lineage["documents"] == [name]]) for name in said}
    assert len({e.id for e in students[0]}) == 9, "no example is left out"
    assert max(said[name] / seen[name] for name in said) == 1, "and the pool is no longer than that takes"
    most = max(said[name] / words[name] ** 2 for name in said)
    for name in said:
        assert seen[name] == pytest.approx(most * words[name] ** 2, abs=0.5)


def test_shares_of_a_batch():
    c = TrainConfig(batch=64, student=0.5, demonstrations=0.5)
    newest = [e for n, o in enumerate(("student", "simulate", "correction")) for e in examples(o, ["a"], 2, n)]
    demonstrations = examples("seed", [], 3, 9)
    counts = [count for _, count in mixture(c, 0.25, newest, newest, demonstrations)]
    assert counts == [12, 12, 8, 16, 8, 8], "students, simulators, corrections; demonstrations; earlier ones"
    assert [count for _, count in mixture(c, 0.25, newest[:4], [], demonstrations)] == [16, 16, 0, 32, 0, 0]
    assert sum(count for _, count in mixture(replace(c, mixture="replace"), 0.25, newest, [], demonstrations)) == 64


def test_corrections_of_all_generations_share_one_pool():
    newest = [*examples("student", ["b"], 2, 0), *examples("correction", ["b"], 2, 1)]
    earlier = [*examples("student", ["a"], 2, 2), *examples("correction", ["a"], 2, 3)]
    pools = mixture(TrainConfig(), 0.25, newest, earlier, examples("seed", [], 1, 4))
    corrected = [{e.lineage["documents"][0] for e in found if e.origin == "correction"} for found, _ in pools]
    assert corrected == [set(), set(), {"a", "b"}, set(), set(), set()]


def test_reviewer_lessons_join_the_simulators():
    lessons = [replace(e, origin="review", lineage={"kind": "told"}) for e in random_examples(2, seed=5)]
    pools = mixture(TrainConfig(), 0.35, [*examples("student", ["a"], 2, 0), *lessons], [], examples("seed", [], 1, 3))
    assert [e.origin for e in pools[1][0]] == ["review", "review"] and pools[1][1] > 0


def test_of_the_accepted_those_that_looked_something_up_are_kept_first(world):
    pairs = [(s, world.task(s, CONTEXTS[0])) for s in world.situations[:2]]
    made = [transcript(task, ideal(s, task), sibling=n) for s, task in pairs for n in range(4)]
    made[3], made[6] = replace(made[3], called=((3, 6),)), replace(made[6], called=((3, 6),))
    reviews = [Review(t.id, {}, n != 6) for n, t in enumerate(made)]
    assert kept(made, reviews, 2) == [made[3], made[0], made[4], made[5]]

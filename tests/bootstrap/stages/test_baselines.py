from dataclasses import replace

import numpy as np
import pytest
from support import assert_same_bits, awaken

from ratchet.bootstrap.stages import baselines
from ratchet.bootstrap.stages.baselines import PLACE, imitate
from ratchet.bootstrap.worlds.world import Document, Material


def test_the_imitation_arm_learns_the_raw_documents_for_as_many_tokens(turn, monkeypatch):
    g, trained = turn(1, generations=2, train__later_rate=0.5), []
    monkeypatch.setattr(baselines, "train_arm", lambda *given: trained.append(given) or awaken(g.base))
    read = [d for material in g.run.world.slices[:2] for d in material.documents]
    lengths = [len(g.run.tokenizer.encode(d.text)) + 1 for d in read]
    length = float(np.mean(lengths))
    g.run.commits.write(g.run.generation(2) / "training.json", {"steps": 2, "tokens_per_step": 3.2 * length})
    params = imitate(g.run, g.base)
    run, base, arm = trained[0]
    ((raw, batch),) = arm.batches.pools
    assert run is g.run and base is g.base and (arm.batches.steps, batch) == (2, 3)
    assert (arm.position["arm"], arm.position["generation"]) == (PLACE, 2)
    assert arm.optimizer.rate == 0.5 * g.run.config.train.optimizer.rate
    assert [e.lineage["documents"] for e in raw] == [[d.id] for d in read] and {e.origin for e in raw} == {"imitation"}
    assert all((e.probs == 1).all() for e in raw) and [len(e.ids) for e in raw] == lengths
    assert_same_bits(imitate(g.run, g.base), params)
    assert len(trained) == 1
    with pytest.raises(AssertionError):
        assert_same_bits(params, g.base)


def test_documents_longer_than_a_row_are_read_in_parts_and_at_least_one_is_read_a_step(turn, monkeypatch):
    g, trained = turn(1, generations=1), []
    monkeypatch.setattr(baselines, "train_arm", lambda *given: trained.append(given) or g.base)
    columns, tokenizer = g.run.config.train.columns, g.run.tokenizer
    long = Document("long", "red " * 3 * columns)
    world = replace(g.run.world, slices=(Material((long,)),))
    g.run.commits.write(g.run.generation(1) / "training.json", {"steps": 2, "tokens_per_step": 0.1})
    imitate(replace(g.run, world=world), g.base)
    ((raw, batch),) = trained[0][2].batches.pools
    assert batch == 1 and len(raw) > 3 and max(len(e.tokens) for e in raw) == columns
    said = [int(t) for e in raw for t in e.tokens[len(e.tokens) - len(e.ids) :]]
    assert said == [*tokenizer.encode(long.text), tokenizer.end], "every token of it once"

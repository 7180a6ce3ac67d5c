"""Padding, and two processes on this machine, each with its own devices, that say what one says."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import processes
import pytest
import speaker
from flax import nnx

from ratchet.models import programs
from ratchet.models.inference import columns_for, left_pad, round_up
from ratchet.models.slots import Plan
from ratchet.train.sharding import make_mesh


def said(count) -> list[list[int]]:
    """What so many processes say, on which all of them have to agree."""
    ended = processes.run(Path(speaker.__file__), count)
    assert not any(one.returncode for one in ended), ended[0].stderr[-2000:]
    lines = [[line.split()[1:] for line in one.stdout.splitlines() if line.startswith("said")] for one in ended]
    assert all(mine == lines[0] for mine in lines)
    return [list(map(int, ids)) for ids in lines[0]]


@pytest.mark.long
def test_two_processes_say_and_foresee_what_one_does():
    """The one is this process, with as many devices of its own."""
    one = speaker.say(make_mesh(speaker.LAID, jax.devices()[:4]))
    assert len(one) == 9 + 9 and len(set(map(tuple, one))) > 12
    assert said(2) == one


def test_prompts_end_in_the_last_column_and_missing_rows_are_not_real():
    tokens, real = left_pad([(5, 0, 7), ()], 4, 3)
    np.testing.assert_array_equal(tokens, [[0, 5, 0, 7], [0] * 4, [0] * 4])
    np.testing.assert_array_equal(real, [[False, True, True, True], [False] * 4, [False] * 4])


def test_accelerators_have_few_widths_and_deep_models_few_of_a_step(monkeypatch, small):
    assert [columns_for(n, 32, few=False) for n in (0, 1, 33, 700)] == [0, 32, 64, 704]
    plan = Plan(small[0], slots=4, new_tokens=8, keep=4)
    shallow = nnx.merge(*small).config
    deep = replace(shallow, layers=9)
    assert not plan.few and [plan.columns(shallow, 300), plan.columns(deep, 300)] == [320, 384]
    monkeypatch.setattr(programs, "few", lambda device: True)
    assert plan.few and plan.columns(shallow, 300) == 384
    widths = {n: columns_for(n, 32, few=True) for n in range(1025)}
    assert sorted(set(widths.values())) == [0, 64, 128, 192, 256, 384, 512, 768, 1024]
    assert all(width >= n for n, width in widths.items())
    assert columns_for(100, 96, few=True) == 192, "whole buckets as well"


def test_lengths_are_rounded_up_to_whole_steps():
    assert [round_up(n, 16) for n in (0, 1, 16, 17)] == [0, 16, 16, 32]

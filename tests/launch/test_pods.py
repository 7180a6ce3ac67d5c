"""The recipes for pods are laid out for the topologies that they name."""

import json
import sys
from pathlib import Path

import pytest

from ratchet.launch.options import parse_run
from ratchet.launch.preflight import Preflight
from ratchet.launch.preflight.gpus import is_card
from ratchet.launch.recipes import RECIPES
from ratchet.launch.submit.slices import slice_of

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import pods


@pytest.mark.parametrize(("recipe", "topology", "more"), pods.ASKED)
def test_slots_and_parts_of_a_batch_divide_over_the_chips(recipe, topology, more):
    config = parse_run("preflight", Preflight, [recipe, *more]).config
    chips = int(topology.partition(":")[2]) if is_card(topology) else slice_of(topology).chips
    parts = chips // config.mesh.tensor
    assert config.simulate.slots % parts == 0, "the sampler would refuse them"
    assert config.train.batch >= 2 * parts * config.train.engine.micro_batches, "most rows of a batch would be empty"
    assert config.simulate.unit_tasks * config.simulate.samples >= config.simulate.slots, "slots would wait for work"


def test_what_was_predicted_fits():
    found = json.loads(pods.RESULT.read_text())
    assert found and all(one["fits"] and one["predicted"]["hours"] > 0 for one in found.values())
    assert {name.split()[0] for name in found} <= {name for name in RECIPES if name.startswith("pod-")}

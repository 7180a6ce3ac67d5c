"""What XLA is told of each program, as it writes down itself; GPUs alone heed it, and there is none here."""

import os
import subprocess
import sys

import pytest

_RUN = """
import jax
jax.config.update("jax_platforms", "cpu")
import numpy as np
from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.sampler import Request, Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.batches import Batches
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.records import Example
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.trainer import EngineConfig, Training, fit, mean_loss

config = DecoderConfig(vocab_size=16, width=8, layers=1, heads=2, kv_heads=1, mlp_width=8, max_length=16)
graphdef, params = decoder.create(config, 0)
one = np.ones((1, 1))
example = Example.create([1, 2], [0, 1], 2 * one, one, [0.0], origin="seed", lineage={})
batches = Batches([([example], 1)], seed=0, steps=1, columns=8)
mesh, engine = make_mesh(MeshConfig()), EngineConfig(deterministic=True)
run = Training(graphdef, batches, OptimizerConfig(), mesh, engine, {}, rank=1)
fit(run, params, None, lambda step, metrics: None)
for deterministic in (True, False):
    mean_loss(graphdef, params, [example], deterministic=deterministic)
sampler = Sampler(graphdef, slots=1, new_tokens=1, keep=1, deterministic=True)
sampler(params, [Request(0, (3,))], seed=0, temperature=1.0, stop=())
scorer = Scorer(graphdef, questions=1, deterministic=True)
scorer(params, [((3,), (4,))], (5,))
scorer.distributions(params, [((3,), (4,))], 1)
"""
PROGRAMS = {
    "train_step", "_merge", "loss_sums", "prefill", "dispatch", "answer_probabilities", "token_distributions",
}
"""All that multiply matrices; the others copy, cast and count."""


@pytest.mark.long
def test_every_program_that_multiplies_is_compiled_as_asked(tmp_path):
    around = os.environ | {"XLA_FLAGS": f"--xla_dump_to={tmp_path}", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", _RUN], capture_output=True, text=True, env=around)
    assert ended.returncode == 0, ended.stderr[-2000:]
    told, multiplies = {}, set()
    for path in tmp_path.glob("*.debug_options"):
        name = path.name.split(".")[1].removeprefix("jit_")
        told.setdefault(name, set()).add("xla_gpu_deterministic_ops: true" in path.read_text())
    for path in tmp_path.glob("*.before_optimizations.txt"):
        if " dot(" in path.read_text():
            multiplies.add(path.name.split(".")[1].removeprefix("jit_"))
    assert multiplies == PROGRAMS
    assert {name: told[name] for name in PROGRAMS} == dict.fromkeys(PROGRAMS, {True}) | {"loss_sums": {True, False}}

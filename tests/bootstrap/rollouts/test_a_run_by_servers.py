"""A whole run whose promoted weights write by `ratchet serve`, in processes of its own."""

import contextlib
import json
import os
import subprocess
import sys

import pytest
from etils import epath
from support import little_config, start
from templates import write_folder
from test_rollouts import MODEL, weights

from ratchet.bootstrap import loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.transcript import transcript_from_json
from ratchet.models import huggingface
from ratchet.train.checkpoint import fingerprint

pytestmark = pytest.mark.long


@contextlib.contextmanager
def serving(folder, below):
    """A process that serves a folder and takes weights; its address comes with it."""
    words = ["serve", "--base", str(folder), "--port", "0", "--slots", "4", "--weights-from", str(below)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "ratchet.launch", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = next(line for line in process.stderr if line.startswith("serving"))
            yield process, line.split()[3].rstrip(";")
        finally:
            process.kill()


class Watching(Silent):
    """Progress that keeps its lines, and does something when a stage begins."""

    def __init__(self, stage, does):
        self.lines, self._stage, self._does = [], stage, does

    def line(self, text):
        self.lines.append(text)

    def stage(self, name, total):
        if name == self._stage:
            self._does()
        return super().stage(name, total)


def test_servers_write_both_generations_the_second_with_the_first_ones_weights_and_one_of_them_dies(tmp_path):
    folder = epath.Path(tmp_path / "llama")
    huggingface.save(folder, MODEL, weights(1), "float32")
    write_folder(folder, "qwen")
    directory = tmp_path / "run"
    with serving(folder, directory / "rollouts") as (first, one), serving(folder, directory / "rollouts") as (_, other):
        sizes = {"train__columns": 512, "model__max_length": 512, "simulate__keep": 4, "simulate__new_tokens": 16}
        promoted = {"evaluate__margin": 1.0, "evaluate__resolution": 1.0, "simulate__calls": 0}
        config = runs.with_base(little_config(base=str(folder), **sizes | promoted, rollouts__url=(one, other)))
        progress = Watching("gen 2 simulate", first.kill)
        loop.run(start(directory, config), config, progress)
    run = runs.prepare(epath.Path(directory), config, Silent(), writes=False)
    assert json.loads((directory / "gen-001" / "DONE.json").read_text())["incumbent"] == 1
    by = {number: fingerprint(run.weights(number)) for number in (0, 1)}
    kept = directory / "rollouts" / "answers"
    for generation in (1, 2):
        written = [transcript_from_json(p) for p in Stage(run.generation(generation) / "simulate").committed()]
        files = [json.loads(file.read_text())["answer"] for file in (kept / by[generation - 1]).glob("*/*.json")]
        said = [tuple(tokens) for file in files for tokens, _ in file["answers"].values()]
        assert len(said) > len(written) > 0, "alternatives are theirs to continue"
        assert {t.tokens for t in written} <= {*said, *((*tokens, run.tokenizer.end) for tokens in said)}
        assert {file["by"] for file in files} <= ({one, other} if generation == 1 else {other})
    assert len([*kept.iterdir()]) == 2, "an evaluation asks weights that are not promoted yet, which stay at home"
    assert any(f"rollouts: {one} is left out for now" in line for line in progress.lines)
    assert any(line.startswith("gen 2 rollouts: ") and other in line for line in progress.lines)

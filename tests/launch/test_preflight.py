"""Preflight compiles with the real TPU compiler, for a small model."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_config

from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.launch import cli
from ratchet.launch.output import make_console
from ratchet.launch.preflight import Preflight, PreflightError, generation, preflight, show, training
from ratchet.launch.preflight.chips import described_chips, without_compilation_cache
from ratchet.launch.preflight.collectives import collectives, memory_traffic
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import NO_WINDOW, Family
from ratchet.models.kernels import Kernel, Scores, attend_rows
from ratchet.train.flops import chip_of
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding
from ratchet.train.trainer import EngineConfig

MODEL = DecoderConfig(
    vocab_size=1024, width=256, layers=6, heads=2, kv_heads=2, head_width=128, mlp_width=512, max_length=512, conv=1,
    family=Family(gated=True),
)


def asked(**fields):
    engine = EngineConfig(dtype="bfloat16", remat="full")
    train = {"train__columns": 512, "train__engine": engine, "train__optimizer": OptimizerConfig()}
    config = tiny_config(**train, model=MODEL, mesh=MeshConfig(-1, -1, 1))
    return Preflight(config, **fields)


def total(sent):
    """Bytes over all kinds and axes."""
    return sum(count for axes in sent.values() for count in axes.values())


@pytest.fixture(scope="module")
def found():
    return preflight(asked(slices=2))


@pytest.mark.long
def test_memory_is_within_the_chip_and_its_parts_add_up(found):
    assert found["fits"] and found["chips"] == 32 and found["mesh"] == {"data": 2, "fsdp": 16, "tensor": 1}
    consumers = found["memory"]["consumers"]
    assert list(consumers.values()) == sorted(consumers.values(), reverse=True)
    assert found["memory"]["needed"] == pytest.approx(sum(consumers.values()), rel=0.05)
    split = 4 * found["parameters"] / 16
    assert split <= consumers["weights"] < 1.02 * split  # norms are whole on every chip
    assert consumers["optimizer state"] == pytest.approx(2 * consumers["weights"], rel=0.01)


@pytest.mark.long
def test_traffic_is_named_by_kind_and_axis_and_held_against_the_formula(found):
    assert found["collectives"]["all-gather"]["fsdp"] == found["fsdp"]["gathered"]
    # Queries, keys and values come thrice, and are a quarter here. So small a vocabulary's gradient is gathered once.
    besides = found["fsdp"]["gathered"] - 4 * MODEL.vocab_size * MODEL.width
    assert 1.0 < besides / found["fsdp"]["formula"] < 1.3 and found["fsdp"]["ratio"] < 1.31
    between = found["collectives"]["send"]["data"]  # each chip sends its part of the gradients, in bfloat16 mostly
    assert 2 * found["parameters"] / 16 < between < 4 * found["parameters"] / 16
    assert found["fsdp"]["gradients"] in ("all-reduced", "reduce-scattered")


@pytest.mark.long
def test_the_cost_is_that_of_the_formula_and_the_bound_follows(found):
    assert 1.15 < found["flops"]["ratio"] < 1.36
    bound = found["bound"]
    assert bound["by"] == max(bound["seconds"], key=bound["seconds"].get) and 0 < bound["mfu_at_most"] < 1


def test_what_does_not_fit_is_an_answer(capsys):
    rows = ["--rows", "600", "--train.engine.remat", "none", "--train.columns", "2048", "--model.layers", "12"]
    words = ["preflight", "qwen3-0.6b", "--json", *rows]
    assert cli.main(words) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    first, *others = err.splitlines()
    assert first.startswith("preflight: this is of a model of the recipe's own shape") and "--base" in first
    assert [line.split()[:2] for line in others] == [["preflight:", "compiling"], ["preflight:", "compiled"]]
    assert not found["fits"] and found["memory"]["of"] == 16 * 2**30
    assert any("remat full" in line for line in found["advice"]) and "bound" not in found


def test_mistakes_are_one_line(capsys):
    with pytest.raises(PreflightError, match="no topology 'v9z:1x1' .*; there are v5e:4x4"):
        preflight(asked(topology="v9z:1x1"))
    with pytest.raises(PreflightError, match="rows 0, slots 32, slices 1; all must be at least 1"):
        preflight(asked(rows=0))
    assert cli.main(["preflight", "qwen3-0.6b", "--mesh.tensor", "3"]) == 2
    assert "does not make 16 devices; change --mesh" in capsys.readouterr().err


def test_with_adapters_the_weights_are_frozen_and_have_no_moments():
    """What a chip holds, by the shapes alone."""
    config, mesh = asked().config, make_mesh(MeshConfig(-1, -1, 1))
    (whole, _, nothing), *_ = training._step(config, mesh, 8)
    lora = replace(config, base="smollm2", train=replace(config.train, lora=4))
    (state, _, frozen), *_ = training._step(lora, mesh, 8)
    sizes = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert nothing is None and sizes(frozen) == sizes(whole.params)
    assert sizes(state.params) < sizes(frozen) / 20 and sizes(state.optimizer) < 3 * sizes(state.params)


def test_a_question_of_the_users_is_one_task_a_document():
    answers = lambda **of: generation._answers(tiny_config(world="documents", documents=DocumentsConfig(**of)))
    assert answers(per_document=3) == 3 * answers(per_document=3, question="What is it about?") > 0


def test_a_chip_has_a_row_for_every_micro_batch(monkeypatch):
    taken = []
    monkeypatch.setattr(training, "training", lambda config, mesh, chip, rows, *_: taken.append(rows) or {})
    engine = replace(asked().config.train.engine, micro_batches=4)
    for rows in (1, 2, 8, 9):
        preflight(replace(asked(rows=rows), config=tiny_config(train__engine=engine, mesh=MeshConfig(-1, -1, 1))))
    assert taken == [4, 4, 8, 12]


def test_a_chip_that_is_two_devices_is_half_of_its_data_sheet():
    chips = described_chips("tpu7x:2x2x1")
    chip = chip_of(chips[0].device_kind)
    assert len(chips) == 8 and (2 * chip.flops, 2 * chip.memory, 2 * chip.bandwidth) == (2307e12, 192 * 2**30, 7380e9)
    product = jax.jit(jnp.dot, out_shardings=NamedSharding(make_mesh(MeshConfig(-1), chips), PartitionSpec()))
    with without_compilation_cache():
        text = product.lower(*[jax.ShapeDtypeStruct((8, 8), jnp.float32)] * 2).compile().as_text()
    assert "f32[8,8]" in text


STOPPED = """
import os, signal, sys, threading
from ratchet.launch.preflight.chips import described_chips
from ratchet.train import stopping
with stopping.heeded(lambda line: print(line, file=sys.stderr, flush=True), patient=False):
    described_chips("v5e:2x2")
    signal.raise_signal(signal.SIGTERM)
    threading.Event().wait()
"""


def test_a_signal_ends_the_compiler_with_one_line():
    """libtpu's own handler would print its stack."""
    ran = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (143, "")
    assert ran.stderr.splitlines()[-1] == "stopped by SIGTERM" and "***" not in ran.stderr


@pytest.mark.long
def test_people_get_a_table(found, capsys):
    show(found, make_console())
    said = capsys.readouterr().out
    assert "memory of a chip" in said and "all-gather" in said and "MFU at most" in said
    assert jax.default_backend() == "cpu"


@pytest.mark.long
def test_a_step_of_sampling_reads_weights_and_caches_and_sends_neither(capsys):
    found = preflight(asked(step="sample", slots=128, topology="v5e:2x2"))  # more than lies in the chip
    assert found["fits"] and found["slots"] == 512
    consumers, step = found["memory"]["consumers"], found["step"]
    assert found["memory"]["needed"] > consumers["weights of training"] + consumers["weights for sampling"]
    assert step["formula"] == consumers["weights for sampling"] + consumers["caches of slots"]
    assert 0.6 < step["ratio"] < 1.2  # a part of so small a model stays in the chip
    assert total(step["sent"]) < 0.01 * step["bytes"]
    show(found, make_console())
    said = capsys.readouterr().out
    assert "caches of slots" in said and "tokens a second" in said


@pytest.mark.long
def test_heads_over_chips_send_hidden_states_and_choices_alone():
    split = asked(step="sample", slots=64, topology="v5e:2x2")
    split = replace(split, config=replace(split.config, mesh=MeshConfig(2, 1, 2)))
    step = preflight(split)["step"]
    reduced = sum(step["sent"]["all-reduce"].values())
    per_slot = reduced / 64 / MODEL.layers  # attention's output and the MLP's, float32 at most
    assert 2 * 2 * MODEL.width <= per_slot <= 2 * 4 * MODEL.width + 64
    assert total(step["sent"]) < 0.02 * step["bytes"]


@pytest.mark.long
def test_the_chips_kernel_compiles_and_its_scores_stay_in_the_chip():
    """Forward and backward, heads over tensor, for layers that slide or not."""
    mesh = make_mesh(MeshConfig(data=2, tensor=2), described_chips("v5e:2x2"))
    rows, length, heads, window = 8, 2048, 8, 128
    lay = lambda kind, *shape: jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, PartitionSpec("data")))
    operands = [lay(jnp.bfloat16, rows, length, n, 128) for n in (heads, heads // 2, heads // 2)]
    segments, slides = lay(jnp.int32, rows, length), jax.ShapeDtypeStruct((), bool)

    def loss(operands, segments, slides):
        seen, scores = jnp.where(slides, window, NO_WINDOW), Scores(0.1, window=window)
        mixed = attend_rows(*operands, segments, slides, seen, scores, Kernel("auto", slots_sharding(mesh)))
        return jnp.sum(mixed.astype(jnp.float32) ** 2)

    with without_compilation_cache():
        text = jax.jit(jax.grad(loss)).lower(operands, segments, slides).compile().as_text()
    assert "tpu_custom_call" in text
    assert not collectives(text, mesh)
    assert memory_traffic(text) < 2 * rows * heads * length**2 / mesh.size, "less than scores of half precision, once"


@pytest.mark.long
def test_a_batch_of_questions_costs_what_the_formula_says_and_sends_nothing_between_parts(capsys):
    found = preflight(asked(step="score", slots=64, topology="v5e:2x2"))
    assert found["fits"] and found["questions"] == 256 and found["contexts"] == 32
    assert found["context_columns"] + found["question_columns"] == 480  # of 512, less 32 that an answer may take
    consumers = found["memory"]["consumers"]
    assert found["memory"]["needed"] > sum(consumers.values()) > consumers["weights for scoring"] > 0
    assert found["step"]["bytes"] > consumers["weights for scoring"]
    assert 1.0 < found["flops"]["ratio"] < 1.5  # attention looks at whole squares
    assert total(found["step"]["sent"]) < 2**20, "weights lie whole on every chip"
    assert found["bound"]["questions_a_second_at_most"] > 0
    show(found, make_console())
    said = capsys.readouterr().out
    assert "FLOPs of a question" in said and "questions a second" in said

"""What the compiler is told about a program."""

import jax
import jax.numpy as jnp
import pytest

from ratchet.models.programs import compiler_options

LEVEL, FUSED = "xla_backend_optimization_level", "xla_cpu_experimental_ynn_fusion_type"


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_are_told_of_determinism_alone(monkeypatch, platform):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert compiler_options(False, platform) == compiler_options(False, platform, trains=True) == {}
    assert compiler_options(True, platform) == {"xla_gpu_deterministic_ops": True}


def test_a_cpu_compiles_at_the_second_level_and_trains_without_fusions_of_a_library(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    assert compiler_options(False, "cpu") == {LEVEL: 2}
    assert compiler_options(False, "cpu", trains=True) == {LEVEL: 2, FUSED: ""}


def test_what_the_user_tells_the_compiler_stands(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=/tmp --{LEVEL}=0")
    assert compiler_options(False, "cpu", trains=True) == {FUSED: ""}
    monkeypatch.setenv("XLA_FLAGS", f"--{FUSED}=LIBRARY_FUSION_TYPE_DOT --{LEVEL}=0")
    assert compiler_options(False, "cpu", trains=True) == {}


def test_the_compiler_that_is_pinned_knows_these_options_and_leaves_fusions_out(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    x = jnp.ones((256, 256))

    def compiled(**options) -> str:
        return jax.jit(lambda x: jnp.tanh(x @ x) @ x, compiler_options=options).lower(x).compile().as_text()

    assert "ynn" in compiled(**compiler_options(False, "cpu"))
    assert "ynn" not in compiled(**compiler_options(False, "cpu", trains=True))


def test_determinism_that_a_run_asks_for_does_not_give_way(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_gpu_deterministic_ops=false --xla_dump_to=/tmp/{LEVEL}")
    assert compiler_options(True, "cpu") == {"xla_gpu_deterministic_ops": True, LEVEL: 2}

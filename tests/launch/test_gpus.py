"""Preflight for GPUs compiles with the real compiler of JAX's plugin for CUDA, for a small model and no card."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from test_preflight import MODEL, asked, total

from ratchet.launch import __main__ as begins
from ratchet.launch.output import make_console
from ratchet.launch.preflight import Preflight, PreflightError, gpus, inference, preflight, show
from ratchet.launch.preflight.collectives import kernels
from ratchet.models import cudnn, programs
from ratchet.models.kernels import Kernel, Scores, attend_rows
from ratchet.train import loss
from ratchet.train.flops import CHIPS, chip_of
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.trainer import EngineConfig


@pytest.fixture(scope="module")
def trained():
    return preflight(asked(topology="h100:4"))


def test_the_cards_are_described_as_their_data_sheet_has_them():
    for name, kind in gpus.CARDS.items():
        cards = gpus.described_cards(f"{name}:2")
        assert len(cards) == 2 and {programs.platform(card) for card in cards} == {"gpu"}
        assert {chip_of(card.device_kind) for card in cards} == {CHIPS[kind]} and not gpus.is_card("v5e:4x4")
        assert {card.compute_capability for card in cards} == {"9.0"}


def test_a_step_of_training_gathers_weights_layer_by_layer_and_scatters_gradients(trained):
    assert trained["fits"] and trained["chips"] == 4 and trained["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
    assert trained["memory"]["of"] == 80 * 2**30 and trained["memory"]["consumers"]["temporaries"] > 0
    assert 0.9 < trained["fsdp"]["ratio"] < 1.3 and trained["fsdp"]["gradients"] == "reduce-scattered"
    assert trained["memory"]["traffic"] > 6 * trained["parameters"], "weights are read, and moments read and written"
    assert trained["bound"]["by"] in trained["bound"]["seconds"] and 0 < trained["bound"]["mfu_at_most"] < 1


def test_models_with_layers_that_slide_are_compiled_too():
    """cuDNN's version, too, is that of the card which is described."""
    family = replace(MODEL.family, sliding=(True, False) * 3, window=64)
    config = replace(asked().config, model=replace(MODEL, family=family))
    assert preflight(replace(asked(topology="h100:1"), config=config))["fits"]


@pytest.mark.long
def test_more_layers_move_more(trained):
    deep = preflight(replace(asked(topology="h100:4"), config=replace(asked().config, model=replace(MODEL, layers=12))))
    for of in (lambda found: total(found["collectives"]), lambda found: found["memory"]["traffic"]):
        assert 1.3 * of(trained) < of(deep) < 2.2 * of(trained)


@pytest.mark.parametrize(("step", "slots"), [("sample", 16), pytest.param("score", 16, marks=pytest.mark.long)])
def test_sampling_and_scoring_are_compiled_for_cards_too(step, slots):
    found = preflight(asked(topology="h100:2", step=step, slots=slots))
    assert found["fits"] and found["step"]["bytes"] > 0 and found["bound"]["by"] in ("compute", "memory")
    console = make_console()
    with console.capture() as shown:
        show(found, console)
    assert "2 of h100:2" in shown.get()
    if step == "sample":
        assert 0.8 < found["step"]["ratio"] < 2.5, "one step reads the weights and every cache once"
        assert f"kernels launched in a step  {found['step']['kernels']}" in shown.get()


@pytest.mark.parametrize("attention", ["auto", pytest.param("triton", marks=pytest.mark.long)])
def test_a_step_of_decoding_launches_few_kernels_in_a_layer(monkeypatch, attention):
    """The kernel of decoding, which no GPU has run yet, compiles to a card's code, and is one in place of three."""
    engine, texts = EngineConfig(dtype="bfloat16", attention=attention), []
    few, many = (
        replace(asked().config, model=replace(MODEL, layers=layers, heads=8, head_width=64),
                train=replace(asked().config.train, engine=engine))
        for layers in (2, 6)
    )  # fmt: skip
    monkeypatch.setattr(inference, "kernels", lambda text, step: texts.append(text) or kernels(text, step))
    ask = lambda config: preflight(Preflight(config, topology="h100:1", step="sample", slots=16))["step"]["kernels"]
    in_a_layer = (ask(many) - ask(few)) / 4
    assert 8 < in_a_layer <= (14 if attention == "triton" else 17)
    assert all((text.count("xla.gpu.triton") > 0) == (attention == "triton") for text in texts)


def test_within_cudnn_attends_in_the_program_and_outside_nothing_has_changed():
    (card,) = gpus.described_cards("h100:1")
    mesh, now = make_mesh(MeshConfig(1, 1, 1), [card]), lambda: (cudnn.capability(), programs.platform())
    before = (*now(), programs.device_kind())
    of = lambda heads: jax.ShapeDtypeStruct((2, 128, heads, 64), jnp.bfloat16)
    attend = jax.jit(lambda q, k, v, s: attend_rows(q, k, v, s, None, None, Scores(0.125), Kernel()))
    with gpus.as_if_present(mesh):
        assert programs.device_kind() == "NVIDIA H100" and loss._chunk_logits(1000) == loss._GPU_ROWS * 1000
        program = attend.lower(of(4), of(2), of(2), jax.ShapeDtypeStruct((2, 128), jnp.int32))
        assert "__cudnn$fmha" in program.compile(compiler_options=gpus.options(mesh)).as_text()
    assert (*now(), programs.device_kind()) == before
    with gpus.as_if_present(make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])):
        assert programs.platform() == "cpu", "of other chips nothing is told"


@pytest.mark.parametrize("topology", ["h100", "h100:", "H100:0", "h100:2x4", "h200:-1", "h100:9"])
def test_a_topology_that_is_none_is_one_line(topology):
    with pytest.raises(PreflightError, match=f"no topology '{topology}'.*, at most eight, as h[12]00:8$"):
        preflight(asked(topology=topology))


@pytest.mark.parametrize("libtpu", [True, False])
def test_other_cards_are_told_which_there_are(monkeypatch, libtpu):
    find = importlib.util.find_spec
    if not libtpu:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else find(name, *a))
    with pytest.raises(PreflightError, match="no topology 'a100:8'; there are v5e:4x4, .*h100:8, h200:8"):
        preflight(asked(topology="a100:8"))


def test_a_plugin_that_describes_nothing_is_one_line(monkeypatch):
    def refused(*_, **__):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", refused)
    with pytest.raises(PreflightError, match=r"describes no h100:8 \(topology not .*\); set JAX_PLATFORMS=cpu, and"):
        preflight(asked(topology="h100:8"))


def test_slices_are_of_tpus():
    with pytest.raises(PreflightError, match="leave --slices at 1"):
        preflight(asked(topology="h100:8", slices=2))


@pytest.mark.parametrize("missing", ["jax_plugins", "nvidia.cuda_nvcc"])
def test_without_the_compiler_it_is_said_how_to_install_it(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == missing else find(name, *a))
    with pytest.raises(PreflightError, match=r"the GPU compiler is missing; .*ratchet\[preflight-gpu\]"):
        preflight(asked(topology="h100:8"))


@pytest.mark.parametrize(
    ("plugins", "libtpu", "cuda", "devices", "on_cpu"),
    [
        ([], True, False, [], True), (["xla_cuda12"], False, False, [], True), (["xla_cuda12"], True, False, [], True),
        ([], False, False, [], False), (["metal_plugin"], True, False, [], False),
        (["xla_cuda12"], True, True, [], False), (["xla_cuda12"], False, True, ["nvidia0"], False),
        (["xla_cuda12"], False, False, ["nvidia0"], True), ([], True, False, ["dxg", "kfd", "nvidia0"], True),
        ([], True, False, ["accel0"], False), (["xla_cuda12"], True, False, ["vfio"], False),
    ],
)  # fmt: skip
def test_compilers_alone_leave_jax_on_the_cpu(monkeypatch, tmp_path, plugins, libtpu, cuda, devices, on_cpu):
    for name in plugins:
        (tmp_path / "jax_plugins" / name).mkdir(parents=True)
    (tmp_path / "dev").mkdir()
    for name in devices:
        (tmp_path / "dev" / name).touch()
    (tmp_path / "libtpu.py").touch() if libtpu else None
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "modules", {k: v for k, v in sys.modules.items() if k not in ("jax_plugins", "libtpu")})
    monkeypatch.setattr(begins, "_has_cuda", lambda: cuda)
    monkeypatch.setattr("jax._src.xla_bridge._discover_and_register_pjrt_plugins", lambda: None)
    told, config = [], SimpleNamespace(jax_platforms=None, update=lambda *setting: told.append(setting))
    monkeypatch.setattr(jax, "config", config)
    begins.look_for_no_chips(tmp_path / "dev")
    assert told == ([("jax_platforms", "cpu")] if on_cpu else [])
    config.jax_platforms = "cuda"
    begins.look_for_no_chips(tmp_path / "dev")
    assert len(told) == on_cpu, "what somebody has said stays"


def test_a_plugin_that_only_compiles_is_not_heard_of_by_other_commands():
    """It would say on each start that there is no CUDA."""
    code = "from ratchet.launch.__main__ import look_for_no_chips as look; look(); import jax; print(jax.devices())"
    around = {name: value for name, value in os.environ.items() if name not in ("JAX_PLATFORMS", "XLA_FLAGS")}
    for said in ({}, {"JAX_PLATFORMS": "cpu"}):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=around | said)
        assert (done.stdout, done.stderr) == ("[CpuDevice(id=0)]\n", "")

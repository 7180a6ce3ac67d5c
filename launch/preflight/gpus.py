"""NVIDIA GPUs that are described and not present: JAX's plugin for CUDA holds a compiler, which takes the numbers of a
data sheet in place of a card. It chooses kernels without timing them, so that a program may be another than on a card.
"""

import contextlib
import importlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import jax

from ratchet.launch.lines import unheard
from ratchet.launch.preflight.chips import PreflightError
from ratchet.models import cudnn
from ratchet.models.extras import installing
from ratchet.models.programs import platform
from ratchet.train.flops import CHIPS

CARDS = {"h100": "NVIDIA H100", "h200": "NVIDIA H200"}
"""Cards of NVIDIA's architecture Hopper by their name in a topology."""
_CAPABILITY, _CUDNN = 9, (9, 10, 0)
_CARD = """
gpu_device_info {{
  cuda_compute_capability {{ major: {capability} minor: 0 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  threads_per_warp: 32
  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024  thread_dim_limit_y: 1024  thread_dim_limit_z: 64
  l2_cache_size: 52428800  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
  device_vendor: "NVIDIA Corporation"  name: "{name}"
  runtime_version: "12.8.0"  driver_version: "12.8.0"  compile_time_toolkit_version: "12.8.0"
  dnn_version: "{cudnn[0]}.{cudnn[1]}.{cudnn[2]}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {cudnn[0]} minor: {cudnn[1]} patch: {cudnn[2]} }}
device_description_str: "{name}"
"""
"""What XLA calls a target, in the text form of its GpuTargetConfigProto, with the numbers that XLA itself has for an
H100 (h100_sxm.txtpb). Of an H200 the memory is another, which is filled in."""


def is_card(topology: str) -> bool:
    """Whether a topology names GPUs."""
    return topology.partition(":")[0].lower() in CARDS


def are_cards(mesh: jax.sharding.Mesh) -> bool:
    """Whether the devices of a mesh are GPUs."""
    return platform(mesh.devices.flat[0]) == "gpu"


def described_cards(topology: str) -> list[jax.Device]:
    """The GPUs of one host, joined by NVLink, such as the eight of "h100:8". Raises PreflightError if there are none
    such, or JAX's plugin for CUDA is missing."""
    name, _, count = topology.lower().partition(":")
    if not re.fullmatch(r"[1-8]", count):
        said = "GPUs of one host are named by their number, at most eight"
        raise PreflightError(f"preflight: no topology {topology!r}; {said}, as {name}:8")
    if not (_plugin() and _tools()):
        raise PreflightError(f"preflight: the GPU compiler is missing; {installing('preflight-gpu')}")
    from jax.experimental import topologies

    chip = CHIPS[CARDS[name]]
    numbers = {"bandwidth": int(chip.bandwidth), "memory": int(chip.memory), "name": CARDS[name]}
    card = _CARD.format(capability=_CAPABILITY, cudnn=_CUDNN, **numbers)
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # of CUDA's libraries, which compile nothing
    try:
        with unheard():
            found = topologies.get_topology_desc(name, platform="cuda", topology=f"1x1x{count}", target_config=card)
    except (NotImplementedError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PreflightError(
            f"preflight: JAX's plugin for CUDA describes no {topology} ({reason}); set JAX_PLATFORMS=cpu, and install "
            f"the plugin for jax {jax.__version__}"
        ) from error
    return list(found.devices)


def options(mesh: jax.sharding.Mesh) -> dict[str, str]:
    """What the compiler is told without a card: to time no kernels, and where NVIDIA's tools lie. {} for other chips
    than GPUs."""
    if not are_cards(mesh):
        return {}
    return {"xla_gpu_autotune_level": "0", "xla_gpu_cuda_data_dir": _tools()}


@contextlib.contextmanager
def as_if_present(mesh: jax.sharding.Mesh) -> Iterator[None]:
    """Within, JAX and Ratchet take described GPUs for those that are here: they look for a card and for cuDNN before
    they ask for its attention, by names that are private to JAX. Nothing changes for other chips.

    Raises PreflightError where JAX has other names.
    """
    if not are_cards(mesh):
        yield
        return
    by_jax = importlib.import_module("jax._src.cudnn.fused_attention_stablehlo")
    answers = {
        "check_cudnn_version": lambda: int("{}{:02}{:02}".format(*_CUDNN)),
        "check_compute_capability": lambda asked: True,
        "is_cuda_compute_capability_equal": lambda asked: asked.replace(".", "") == f"{_CAPABILITY}0",
    }
    if unknown := [name for name in answers if not hasattr(by_jax, name)]:
        raise PreflightError(f"preflight: jax {jax.__version__} has no {unknown[0]}; use that of constraints.txt")
    ours = {"capability": lambda: float(_CAPABILITY), "_version": answers["check_cudnn_version"]}
    with _answering(by_jax, answers), _answering(cudnn, ours), jax.set_mesh(mesh):
        yield


@contextlib.contextmanager
def _answering(module: ModuleType, answers: dict[str, Callable]) -> Iterator[None]:
    """Within, functions of a module are others."""
    before = {name: getattr(module, name) for name in answers}
    try:
        vars(module).update(answers)
        yield
    finally:
        vars(module).update(before)


def _plugin() -> bool:
    if importlib.util.find_spec("jax_plugins") is None:
        return False
    return any(importlib.util.find_spec(f"jax_plugins.xla_cuda{version}") for version in (12, 13))


def _tools() -> str:
    """The folder of NVIDIA's package with the assembler and the library of device code; "" where it is missing."""
    for package in ("nvidia.cuda_nvcc", "nvidia.cu13"):
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.util.find_spec(package)
            for place in found.submodule_search_locations or () if found else ():
                if Path(place, "bin", "ptxas").exists():
                    return place
    return ""

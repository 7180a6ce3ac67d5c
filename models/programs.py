"""How programs are compiled: for which devices, and as fast as can be or to the same bits from run to run."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

Options = dict[str, bool | int | str]
"""What `jax.jit` tells XLA, such as {"xla_gpu_deterministic_ops": True}."""


def compiler_options(deterministic: bool, platform: str, trains: bool = False) -> Options:
    """What `jax.jit` tells XLA about a program for a `platform`; what makes it faster gives way to the user's own
    XLA_FLAGS. A deterministic program gives the same bits each time, on a GPU too.

    On a GPU, XLA then takes operations that sum in a fixed order (scatters, attention's backward pass) and chooses no
    kernels by timing them, which makes programs slower. CPUs and TPUs are deterministic without it.

    On a CPU, LLVM stops at its second level: the third takes a third longer and makes nothing faster. A program that
    `trains` is not fused by YNNPACK, with which a small model's step takes 1.16 times as long.
    """
    asked: Options = {"xla_gpu_deterministic_ops": True} if deterministic else {}
    if platform != "cpu":
        return asked
    faster: Options = {"xla_backend_optimization_level": 2}
    faster |= {"xla_cpu_experimental_ynn_fusion_type": ""} if trains else {}
    said = {flag.lstrip("-").partition("=")[0] for flag in os.environ.get("XLA_FLAGS", "").split()}
    return asked | {name: value for name, value in faster.items() if name not in said}


def platform(device: Any = None) -> str:
    """What a program is compiled for: "cpu", "gpu" or "tpu", by a device of its mesh or, without one, asked inside
    jit."""
    device = device or jax.sharding.get_abstract_mesh().abstract_device
    name = device.platform if device else jax.default_backend()
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def device_kind() -> str:
    """What a vendor calls the devices that a program is compiled for, such as "NVIDIA H100 80GB HBM3", asked inside
    jit."""
    return (jax.sharding.get_abstract_mesh().abstract_device or jax.local_devices()[0]).device_kind


def few(device: Any = None) -> bool:
    """Whether arrays are padded to few shapes, since each program compiles for seconds: on accelerators. The device is
    that of `platform`."""
    return platform(device) != "cpu"


class Program:
    """A jitted function of arrays and a keyword `plan`, the `Inference` that it runs; this says how it is compiled."""

    def __init__(self, function: Callable, **options: Any):
        functools.update_wrapper(self, function)
        self._options = options
        self._jitted: dict[tuple[bool, str], jax.stages.Wrapped] = {}

    def __call__(self, *arrays: Any, plan: Any, **static: Any) -> Any:
        return self.jitted(plan)(*arrays, plan=plan, **static)

    def lower(self, *shapes: Any, plan: Any, **static: Any) -> jax.stages.Lowered:
        """The program for shapes of its arrays, not yet compiled."""
        return self.jitted(plan).lower(*shapes, plan=plan, **static)

    def shapes(self, *arrays: Any, plan: Any, **static: Any) -> Any:
        """The shapes of what it gives. Inside a trace, JAX takes no options of a compiler, so the bare function is
        traced."""
        return jax.eval_shape(functools.partial(self.__wrapped__, plan=plan, **static), *arrays)

    def jitted(self, plan: Any) -> jax.stages.Wrapped:
        """The function as it is compiled for this plan."""
        asked = plan.deterministic, plan.kernel.platform
        if asked not in self._jitted:
            found = jax.jit(self.__wrapped__, compiler_options=compiler_options(*asked), **self._options)
            self._jitted.setdefault(asked, found)  # a thread that compiles ahead may have been here
        return self._jitted[asked]


def compiled(jitted: Program | jax.stages.Wrapped, *arrays: Any, **static: Any) -> Any:
    """Compiles a jitted function for arrays, or for shapes of them with their layout, and runs nothing: the call that
    comes compiles no more. Returns the shapes of what that gives, with their layout."""
    found = jitted.lower(*arrays, **static).compile()
    laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(laid, found.out_info, found.output_shardings)


def program(**options: Any) -> Callable[[Callable], Program]:
    """Decorates a function as a Program; options are those of `jax.jit`, and `plan` must be among the static names."""
    return functools.partial(Program, **options)

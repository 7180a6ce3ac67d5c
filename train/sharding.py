"""The mesh and every partition rule, in one place.

The mesh always has the axes (data, fsdp, tensor), size 1 included. Batch rows are split over data and fsdp;
parameters over fsdp (their width) and tensor (heads, MLP width, vocabulary); XLA derives the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

PARAMETERS = {
    "embedding": P("tensor", "fsdp"),
    "head": P("fsdp", "tensor"),
    "query": P(None, "fsdp", "tensor", None),
    "key": P(None, "fsdp", "tensor", None),
    "value": P(None, "fsdp", "tensor", None),
    "output": P(None, "tensor", None, "fsdp"),
    "up": P(None, "fsdp", "tensor"),
    "gate": P(None, "fsdp", "tensor"),
    "down": P(None, "tensor", "fsdp"),
}
"""By the parameter's own name; what is not listed (norms) is kept whole everywhere."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis; data -1 takes all that fsdp and tensor leave."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices. Raises ValueError when the sizes do not multiply to their number."""
    devices = jax.devices() if devices is None else devices
    data = len(devices) // (config.fsdp * config.tensor) if config.data == -1 else config.data
    shape = (data, config.fsdp, config.tensor)
    if data * config.fsdp * config.tensor != len(devices):
        raise ValueError(f"mesh: data × fsdp × tensor = {shape} does not make {len(devices)} devices; change --mesh.*")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, BATCH)


def own_rows(mesh: Mesh, rows: int) -> np.ndarray:
    """The rows of a batch, in order, that lie on devices of this process."""
    parts = batch_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[part] for part in parts]))


def place_batch(mesh: Mesh, rows: int, own: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Arrays of `rows` rows over all processes, each of which gives its `own_rows`."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, array, (rows, *array.shape[1:]))
        for name, array in own.items()
    }


def place(tree, shardings):
    """A new copy of a pytree, laid out; every process has the same values, on the host or laid out already."""

    def one(leaf, sharding):
        if jax.process_count() == 1 or getattr(leaf, "sharding", None) == sharding:
            return jnp.copy(jax.device_put(leaf, sharding))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])

    return jax.tree.map(one, tree, shardings)


def state_sharding(mesh: Mesh, state):
    """A NamedSharding for every leaf of a pytree of parameters or optimizer state, found by the leaf's name."""

    def leaf_sharding(path, leaf):
        names = [str(key.key) for key in path if hasattr(key, "key")]  # nnx's attribute `.value` is no name
        spec = next((PARAMETERS[n] for n in reversed(names) if n in PARAMETERS), P())
        fits = len(spec) <= leaf.ndim and all(
            axis is None or leaf.shape[i] % mesh.shape[axis] == 0 for i, axis in enumerate(spec)
        )
        return NamedSharding(mesh, spec if fits else P())

    return jax.tree_util.tree_map_with_path(leaf_sharding, state)

"""The mesh and every partition rule, in one place.

The mesh always has the axes (data, fsdp, tensor), size 1 included. Batch rows are split over data and fsdp;
parameters over fsdp (their width) and tensor (heads, MLP width, vocabulary); XLA derives the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ratchet.models.bounds import bounded

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))
"""Of arrays whose first axis is the rows of a batch."""
ROWS_AND_HEADS = P(("data", "fsdp"), "tensor")
"""Of attention's operands: rows of a batch, slots of the sampler, and heads."""

PARAMETERS = {
    "embedding": P("tensor", "fsdp"),
    "head": P("fsdp", "tensor"),
    "query": P(None, "fsdp", "tensor", None),
    "key": P(None, "fsdp", "tensor", None),
    "value": P(None, "fsdp", "tensor", None),
    "output": P(None, "tensor", None, "fsdp"),
    "query_bias": P(None, "tensor", None),
    "key_bias": P(None, "tensor", None),
    "value_bias": P(None, "tensor", None),
    "up": P(None, "fsdp", "tensor"),
    "gate": P(None, "fsdp", "tensor"),
    "down": P(None, "tensor", "fsdp"),
    "up_bias": P(None, "tensor"),
    "gate_bias": P(None, "tensor"),
}
"""By the parameter's own name; what is not listed (norms, biases of width D) is kept whole everywhere."""


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis. One of data and fsdp at -1 takes all that the others leave; with both at -1, data is
    the number of slices, which a slower network joins, and fsdp takes what is in a slice."""

    data: int = bounded(-1, "at least 1, or -1 for all that is left")
    fsdp: int = bounded(1, "at least 1, or -1 for all that is left")
    tensor: int = bounded(1, "at least 1")


def mesh_shape(config: MeshConfig, count: int, slices: int = 1) -> tuple[int, int, int]:
    """Devices along each axis of `count` in all, in so many slices. Raises ValueError when the sizes do not make their
    number."""
    data, fsdp, tensor = config.data, config.fsdp, config.tensor
    if fsdp == -1:
        data = slices if data == -1 else data
        fsdp = count // (data * tensor)
    elif data == -1:
        data = count // (fsdp * tensor)
    if data * fsdp * tensor != count or not data * fsdp * tensor:
        shape = (data, fsdp, tensor)
        raise ValueError(f"mesh: data × fsdp × tensor = {shape} does not make {count} devices; change --mesh.*")
    if slices > 1 and data % slices:
        raise ValueError(f"mesh: data is {data}, which {slices} slices do not divide; change --mesh.data")
    return data, fsdp, tensor


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices, slices along data. Raises ValueError when the sizes do not make their number."""
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(d, "slice_index", None) for d in devices})
    data, fsdp, tensor = mesh_shape(config, len(devices), slices)
    types = (AxisType.Auto,) * 3
    if slices == 1:
        return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=types, devices=devices)
    within, across = (data // slices, fsdp, tensor), (slices, 1, 1)
    return Mesh(mesh_utils.create_hybrid_device_mesh(within, across, devices), AXES, axis_types=types)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How arrays of a batch's rows lie over a mesh."""
    return NamedSharding(mesh, BATCH)


def slots_sharding(mesh: Mesh) -> NamedSharding:
    """How the sampler's slots and the scorer's questions lie over a mesh, and with them the heads of their caches."""
    return NamedSharding(mesh, ROWS_AND_HEADS)


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


def laid_out(shapes, shardings):
    """A pytree of shapes with the sharding of each, as compilers and checkpoints take arrays that are not there yet."""
    laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(laid, shapes, shardings)


def state_sharding(mesh: Mesh, state):
    """A NamedSharding for every leaf of a pytree of parameters or optimizer state, found by the leaf's name. Along an
    axis that its mesh axis does not divide, such as nine heads in two parts, a leaf is not divided."""

    def leaf_sharding(path, leaf):
        names = [str(key.key) for key in path if hasattr(key, "key")]  # nnx's attribute `.value` is no name
        spec = next((PARAMETERS[n] for n in reversed(names) if n in PARAMETERS), P())
        if len(spec) > leaf.ndim:
            return NamedSharding(mesh, P())
        fits = [axis and leaf.shape[i] % mesh.shape[axis] == 0 for i, axis in enumerate(spec)]
        kept = [axis if fit else None for axis, fit in zip(spec, fits, strict=True)]
        return NamedSharding(mesh, P(*kept) if any(kept) else P())

    return jax.tree_util.tree_map_with_path(leaf_sharding, state)

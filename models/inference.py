"""A model that is only read: weights in one dtype, each layer on its own or in stacks, laid out once; and rows that
stay on their own part of a mesh.

Shapes: A rows of any kind (slots, prompts, questions), M parts of the mesh that they are split into, B padded rows of P
columns.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from ratchet.models import programs
from ratchet.models.decoder import DecoderConfig, Layers
from ratchet.models.kernels import Attention, Kernel
from ratchet.models.products import FIRST

SHALLOW = 8
"""A program over more layers than these compiles for seconds on a CPU too."""


class Weights(NamedTuple):
    """What a call reads: parameters, but each layer on its own; without `layers`, a loop goes over their stacks."""

    params: nnx.State
    layers: Layers

    @property
    def read(self) -> list[jax.Array]:
        """All but the stacks of layers, which stay in `params` unread where each layer is there on its own."""
        given = jax.tree_util.tree_leaves_with_path(self.params)
        rest = [w for path, w in given if not self.layers or path[0].key != "layers"]
        return [*rest, *jax.tree.leaves(self.layers)]


@dataclass(frozen=True)
class Inference:
    """How a model is read. Weights are cast to `dtype`. `rows` lays rows, and of their caches the heads, out over a
    mesh; weights then lie whole along the axes of rows (a step would else gather them), and results whole on every
    host. `attention` is the kernel for many tokens at once (`models.kernels`), and whether a step may read pages
    (`models.pages`) or, where it is asked for, a shared prompt once (`models.triton`). `deterministic` programs give
    the same bits from run to run on a GPU too (`models.programs`). `unused` are the ids that no token has, such as rows
    that pad an embedding: they have no probability, whatever lies in them."""

    graphdef: nnx.GraphDef
    dtype: str = field(default="float32", kw_only=True)
    rows: NamedSharding | None = field(default=None, kw_only=True)
    attention: Attention = field(default="auto", kw_only=True)
    deterministic: bool = field(default=False, kw_only=True)
    unused: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def kernel(self) -> Kernel:
        """What attends."""
        return Kernel(self.attention, self.rows)

    @property
    def across(self) -> frozenset[str]:
        """The mesh axes over which rows lie."""
        first = () if self.rows is None else self.rows.spec[0]
        return frozenset((first,) if isinstance(first, str) else first)

    @property
    def parts(self) -> int:
        """M, into how many parts the mesh splits rows."""
        return math.prod(self.rows.mesh.shape[axis] for axis in self.across)

    @property
    def few(self) -> bool:
        """Whether few widths of prompts are read: on accelerators (`models.programs`)."""
        return programs.few(self.kernel.device)

    def compiles_long(self, config: DecoderConfig) -> bool:
        """Whether each width that prompts are read in compiles for seconds: on accelerators, and for deep models."""
        return self.few or deep(config)

    def reads_apart(self, config: DecoderConfig) -> bool:
        """Whether what prompts begin with alike is read apart (`models.beginnings`). On accelerators each length of it
        would compile for seconds, and convolutions would have to see past the padding behind it."""
        return not self.few and config.conv == 1

    def layers(self, weights: Weights, config: DecoderConfig) -> Layers | None:
        """The layers as many tokens at once are read with them; None: by a loop over their stacks, because nothing else
        is there (`keeps_stacks`), or on a CPU, where a deep model is read as fast by a loop, and compiles in a third of
        the time."""
        return weights.layers if weights.layers and (self.few or not deep(config)) else None

    def keeps_stacks(self, config: DecoderConfig) -> bool:
        """Whether `weights` leaves layers in their stacks. A step of sampling would copy each out of them."""
        return False

    def of_tokens(self, logits_BV: jax.Array) -> jax.Array:
        """Logits [B, V] in which an unused id has -inf."""
        if not self.unused:
            return logits_BV
        used_V = ~np.isin(np.arange(logits_BV.shape[1]), self.unused)
        return jnp.where(used_V, logits_BV, -jnp.inf)

    def weights(self, params: nnx.State | Weights) -> Weights:
        """The weights of a call, cast and laid out. What this gives may be passed in place of parameters, to be read by
        many calls. A scorer reads a sampler's too; a sampler does not read a scorer's, which may lie in stacks."""
        if isinstance(params, Weights):
            config = nnx.merge(self.graphdef, params.params).config
            assert params.layers or self.keeps_stacks(config), "weights in stacks, which a scorer alone reads"
            return params
        weights = self._cast(params)
        return jax.device_put(weights, self._layout(params, weights))

    def shapes(self, params: nnx.State) -> Weights:
        """The shapes of what `weights` gives, with their layout, for shapes of parameters with theirs."""
        weights = jax.eval_shape(self._cast, params)
        laid = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        return jax.tree.map(laid, weights, self._layout(params, weights))

    def place(self, x: jax.Array) -> NamedSharding:
        """Where an array of rows lies, of any shape [A, ...], or of caches, whose heads are split too: [A, G, S, E] and
        [A, N, PAGE, 2G, E]. A number lies everywhere. Axes of the mesh that split nothing are left out, as in what XLA
        gives back: a program is compiled anew for a layout that is only named otherwise."""
        mesh, (_, heads) = self.rows.mesh, self.rows.spec
        spec = [tuple(axis for axis in mesh.axis_names if axis in self.across and mesh.shape[axis] > 1) or None]
        if mesh.shape[heads] > 1 and x.ndim == 4 and x.shape[1] % mesh.shape[heads] == 0:
            spec += [heads]
        elif mesh.shape[heads] > 1 and x.ndim == 5:
            spec += [None, None, heads]
        return NamedSharding(mesh, PartitionSpec(*spec) if x.ndim and any(spec) else PartitionSpec())

    def over_rows(self, tree):
        """A tree of arrays of rows with each where it belongs, inside jit."""
        if self.rows is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, self.place(x)), tree)

    def everywhere(self, tree):
        """A tree of results whole on every host, inside jit."""
        if self.rows is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.rows.mesh, PartitionSpec()))

    def over_parts(self, function: Callable, *static, whole: type) -> Callable:
        """`function(self, *static, *trees)` on each part's own rows, with nothing sent between parts; trees of the type
        `whole` go to all of them as they are."""
        own = functools.partial(function, self, *static)
        if self.rows is None:
            return own
        rows = PartitionSpec(self.rows.spec[0])

        def split(tree: Any):
            return jax.tree.map(lambda x: rows if x.ndim and type(tree) is not whole else PartitionSpec(), tree)

        def mapped(*trees):
            inputs, outputs = tuple(map(split, trees)), split(jax.eval_shape(own, *trees))
            return jax.shard_map(
                own, mesh=self.rows.mesh, in_specs=inputs, out_specs=outputs, axis_names=self.across, check_vma=False
            )(*trees)

        return mapped

    def _cast(self, params: nnx.State) -> Weights:
        """Weights in the dtype, in stacks or not."""
        keeps_stacks = self.keeps_stacks(nnx.merge(self.graphdef, params).config)
        return _cast(params, self.graphdef, self.dtype, self.kernel.joins, keeps_stacks)

    def _layout(self, params: nnx.State, weights: Weights) -> Weights:
        """Where weights lie: as the parameters, but whole along the axes of rows."""
        if self.rows is None:  # what programs give would else be laid out over a mesh of one, and they compile anew
            (device,) = jax.tree.leaves(params)[0].sharding.device_set
            return jax.tree.map(lambda _: SingleDeviceSharding(device), weights)
        stacks = nnx.merge(self.graphdef, params).layers

        def whole(x, first: int) -> NamedSharding:
            names = (part if isinstance(part, tuple) else (part,) for part in getattr(x.sharding, "spec", ())[first:])
            spec = (None if self.across & set(part) else part[0] for part in names)
            return NamedSharding(self.rows.mesh, PartitionSpec(*spec))

        layers = tuple({name: whole(stacks[FIRST.get(name, name)], 1) for name in layer} for layer in weights.layers)
        rest = lambda path, x: x.sharding if path[0].key == "layers" and layers else whole(x, 0)
        return Weights(jax.tree_util.tree_map_with_path(rest, params), layers)


def deep(config: DecoderConfig) -> bool:
    """Whether a program over all layers compiles for seconds on a CPU too."""
    return config.layers > SHALLOW


def columns_for(length: int, bucket: int, few: bool) -> int:
    """Columns that hold so many tokens: whole buckets; where each width compiles for seconds, a `few` widths, powers of
    two and one and a half of them, from 64 on."""
    if few:
        bucket = math.lcm(bucket, max(64, 1 << max(length - 1, 0).bit_length() >> 2))
    return round_up(length, bucket)


def round_up(length: int, step: int) -> int:
    """The next multiple of `step` that is no less than `length`."""
    return -(-length // step) * step


def left_pad(prompts: Sequence[Sequence[int]], width: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [rows, width], padded on the left, and which of them are real; missing rows have none."""
    out_BP, real_BP = np.zeros((rows, width), np.int32), np.zeros((rows, width), bool)
    for row, prompt in enumerate(prompts):
        out_BP[row, width - len(prompt) :], real_BP[row, width - len(prompt) :] = prompt, True
    return out_BP, real_BP


@functools.partial(jax.jit, static_argnames=("graphdef", "dtype", "join", "keeps_stacks"))
def _cast(params: nnx.State, graphdef: nnx.GraphDef, dtype: str, join: bool, keeps_stacks: bool) -> Weights:
    """Weights in one dtype: layers in their stacks, or each on its own, and the stacks as they are, unread."""
    cast = lambda x: x.astype(dtype)
    if keeps_stacks:
        return Weights(jax.tree.map(cast, params), ())
    own = nnx.merge(graphdef, params).unstacked(join)
    rest = jax.tree_util.tree_map_with_path(lambda path, x: x if path[0].key == "layers" else cast(x), params)
    return Weights(rest, jax.tree.map(cast, own))

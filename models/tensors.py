"""Weights of files onto the mesh, tensor by tensor, whatever the files are.

In a file every layer has its own matrices, [out, in]; ours are [in, out] with heads apart, layers stacked.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from ratchet.models import decoder
from ratchet.models.architectures import FolderError
from ratchet.models.decoder import INPUT_AXES, DecoderConfig

Shardings = Any
"""A pytree of NamedSharding, one for every parameter."""
MATRICES = ("query", "key", "value", "output", "gate", "up", "down", "head")
"""Parameters that files hold the other way round, [out, in]."""


class Names(NamedTuple):
    """What tensors are called in files: `layer` is a layer's prefix with {} for its number; `parts` and `whole` name by
    our parameters what a layer and the rest of the model have."""

    layer: str
    parts: Mapping[str, str]
    whole: Mapping[str, str]


class Tensor(NamedTuple):
    """A tensor of a file: which part of our parameters it is, its name and shape there."""

    parameter: str
    layer: int | None
    name: str
    shape: tuple[int, ...]


class Held(ABC):
    """The tensors of a model's files, read by slices. `place` is the model and `listed` the file that says what tensors
    there are, for messages; `described` says what there must be, such as config.json."""

    place: str
    listed: str
    described: str

    @property
    @abstractmethod
    def names(self) -> Set[str]:
        """What tensors there are."""

    @abstractmethod
    def part(self, name: str) -> Any:
        """A tensor as safetensors gives its slices: it has `get_shape()`, and an index reads a part as an array. Raises
        FolderError when it cannot be read."""

    def check(self, tensors: list[Tensor]) -> None:
        """Raises FolderError unless the files hold exactly these tensors, in these shapes."""
        wanted, held = {t.name: t.shape for t in tensors}, self.names
        for words, names in (("lacks", wanted.keys() - held), ("has", held - wanted.keys())):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise FolderError(f"{self.listed}: {words} the tensor {min(names)}{more}, unlike its {self.described}")
        for name, shape in wanted.items():
            if tuple(found := self.part(name).get_shape()) != shape:
                raise FolderError(f"{self.place}: {name} is {found}; {self.described} makes it {list(shape)}")

    def placed(self, t: Tensor, ours: NamedSharding) -> jax.Array:
        """The tensor as it lies in the file, over the chips that will hold it."""
        spec = (*ours.spec, *[None] * 3)
        inputs = INPUT_AXES.get(t.parameter, 1)
        theirs = (spec[inputs], spec[0]) if t.parameter in MATRICES else spec[: len(t.shape)]
        part = self.part(t.name)
        return jax.make_array_from_callback(t.shape, NamedSharding(ours.mesh, P(*theirs)), lambda index: part[index])


def load(held: Held, names: Names, config: DecoderConfig, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
    """The weights of a model's files as float32, laid out; a host reads its own parts only, of one tensor at a time.

    Raises FolderError when the files do not hold the tensors that such a decoder has, or cannot be read.
    """
    _, template = decoder.shapes(config)
    tensors = listed(config, template, names)
    held.check(tensors)

    def parameter(path, leaf, sharding: NamedSharding):
        parts = [t for t in tensors if t.parameter == name_of(path)]
        turned = partial(_turned, is_matrix=parts[0].parameter in MATRICES)
        if parts[0].layer is None:
            whole = jax.jit(partial(turned, shape=leaf.shape), out_shardings=sharding)
            return jax.block_until_ready(whole(held.placed(parts[0], sharding)))
        fill = jax.jit(
            lambda stack, theirs, layer: stack.at[layer].set(turned(theirs, shape=stack.shape[1:])),
            donate_argnums=0, out_shardings=sharding,
        )
        one = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
        stack = jax.jit(lambda: jnp.zeros(leaf.shape, jnp.float32), out_shardings=sharding)()
        for part in parts:
            stack = jax.block_until_ready(fill(stack, held.placed(part, one), part.layer))  # else the next is read too
        return stack

    return jax.tree_util.tree_map_with_path(parameter, template, shardings(template))


def listed(config: DecoderConfig, params: nnx.State, names: Names) -> list[Tensor]:
    """Every tensor that the files of this model have."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parameter = name_of(path)
        base, kind = (parameter[:-5], "bias") if parameter.endswith("_bias") else (parameter, "weight")
        if base in names.whole:
            shape = leaf.shape[::-1] if base in MATRICES else leaf.shape
            found.append(Tensor(parameter, None, f"{names.whole[base]}.{kind}", shape))
            continue
        shape, inputs = leaf.shape[1:], INPUT_AXES.get(base, 1)
        matrix = (int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs])))
        theirs, rest = matrix if parameter in MATRICES else (int(np.prod(shape)),), f"{names.parts[base]}.{kind}"
        found += [Tensor(parameter, n, names.layer.format(n) + rest, theirs) for n in range(config.layers)]
    return found


def name_of(path: tuple) -> str:
    """Our name of the parameter at a path of the tree."""
    return [str(key.key) for key in path if hasattr(key, "key")][-1]


def _turned(theirs: jax.Array, *, shape: tuple[int, ...], is_matrix: bool) -> jax.Array:
    """A tensor of a file as ours: [in, out], with heads apart, in float32."""
    return (theirs.T if is_matrix else theirs).astype(jnp.float32).reshape(shape)

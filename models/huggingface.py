"""Weights of Hugging Face folders: safetensors onto the mesh, tensor by tensor, and back.

`models.architectures` reads and writes config.json. In a file every layer has its own matrices, [out, in]; ours are
[in, out] with heads apart, layers stacked.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ratchet.models.architectures import FolderError, config_json, present, read_json
from ratchet.models.decoder import INPUT_AXES, Decoder, DecoderConfig

Shardings = Any
"""A pytree of NamedSharding, one for every parameter."""
_FILE_BYTES = 2 * 2**30
_COMPARED = 2**22
"""Numbers of two matrices that are compared at a time."""
_FLOATS = ("F32", "BF16", "F16")
_LAYER = {
    "attention_norm": "input_layernorm", "query": "self_attn.q_proj", "key": "self_attn.k_proj",
    "value": "self_attn.v_proj", "output": "self_attn.o_proj", "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm", "mlp_norm": "post_attention_layernorm", "gate": "mlp.gate_proj",
    "up": "mlp.up_proj", "down": "mlp.down_proj",
}
_WITH_POST_NORMS = _LAYER | {
    "attention_post_norm": "post_attention_layernorm", "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_WHOLE = {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_MATRICES = ("query", "key", "value", "output", "gate", "up", "down", "head")


class _Tensor(NamedTuple):
    """A tensor of a file: which part of our parameters it is, its name and shape there."""

    parameter: str
    layer: int | None
    name: str
    shape: tuple[int, ...]


def load(folder: epath.Path, config: DecoderConfig, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
    """The weights of a folder as float32, laid out; a host reads its own parts only, of one tensor at a time.

    Raises FolderError when there are no safetensors, for an index that does not fit its files, for a tensor that is
    missing, too many, or of another shape or dtype than config.json says, and for a head unlike the embedding to which
    config.json ties it.
    """
    template = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(params=0))))[1]
    tensors, files = _tensors(config, template), _Files(folder)
    files.check(tensors, config.family.tied)

    def parameter(path, leaf, sharding: NamedSharding):
        parts = [t for t in tensors if t.parameter == _name(path)]
        turned = partial(_turned, is_matrix=parts[0].parameter in _MATRICES)
        if parts[0].layer is None:
            return jax.jit(partial(turned, shape=leaf.shape), out_shardings=sharding)(files.place(parts[0], sharding))
        fill = jax.jit(
            lambda stack, theirs, layer: stack.at[layer].set(turned(theirs, shape=stack.shape[1:])),
            donate_argnums=0, out_shardings=sharding,
        )
        one = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
        stack = jax.jit(lambda: jnp.zeros(leaf.shape, jnp.float32), out_shardings=sharding)()
        for part in parts:
            stack = fill(stack, files.place(part, one), part.layer)
        return stack

    return jax.tree_util.tree_map_with_path(parameter, template, shardings(template))


def save(folder: epath.Path, config: DecoderConfig, params: nnx.State, dtype: str) -> None:
    """Writes config.json and safetensors of `dtype` (float32, bfloat16 or float16), about 2 GiB a file.

    All processes call it alike; one writes. Raises FolderError when no other library knows such a model.
    """
    described = config_json(config) | {"torch_dtype": dtype}
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    groups, where, size = _grouped(_tensors(config, params), jnp.dtype(dtype).itemsize), {}, 0
    for number, group in enumerate(groups, 1):
        of = f"-{number:05d}-of-{len(groups):05d}" if len(groups) > 1 else ""
        held = {t.name: jax.device_get(_theirs(leaves[t.parameter], t, dtype)) for t in group}
        if jax.process_index() == 0:
            save_file(held, folder / f"model{of}.safetensors", metadata={"format": "pt"})
        size += sum(array.nbytes for array in held.values())
        where |= dict.fromkeys(held, f"model{of}.safetensors")
    if jax.process_index() == 0:
        if len(groups) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": where}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
        (folder / "config.json").write_text(json.dumps(described, indent=1))


def _name(path) -> str:
    return [str(key.key) for key in path if hasattr(key, "key")][-1]


def _tensors(config: DecoderConfig, params) -> list[_Tensor]:
    """Every tensor that a file of this model has."""
    names, found = _WITH_POST_NORMS if config.family.post_norms else _LAYER, []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parameter = _name(path)
        base, kind = (parameter[:-5], "bias") if parameter.endswith("_bias") else (parameter, "weight")
        if base in _WHOLE:
            shape = leaf.shape[::-1] if base in _MATRICES else leaf.shape
            found.append(_Tensor(parameter, None, f"{_WHOLE[base]}.{kind}", shape))
            continue
        shape, inputs = leaf.shape[1:], INPUT_AXES.get(base, 1)
        matrix = (int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs])))
        theirs = matrix if parameter in _MATRICES else (int(np.prod(shape)),)
        found += [_Tensor(parameter, n, f"model.layers.{n}.{names[base]}.{kind}", theirs) for n in range(config.layers)]
    return found


def _turned(theirs: jax.Array, *, shape: tuple[int, ...], is_matrix: bool) -> jax.Array:
    return (theirs.T if is_matrix else theirs).astype(jnp.float32).reshape(shape)


def _theirs(leaf: jax.Array, t: _Tensor, dtype: str) -> jax.Array:
    """A tensor as the file has it, whole on every process."""

    def turned(leaf):
        ours = leaf if t.layer is None else leaf[t.layer]
        return (ours.reshape(t.shape[::-1]).T if t.parameter in _MATRICES else ours.reshape(t.shape)).astype(dtype)

    whole = NamedSharding(leaf.sharding.mesh, P()) if isinstance(leaf.sharding, NamedSharding) else None
    return jax.jit(turned, out_shardings=whole)(leaf)


def _grouped(tensors: list[_Tensor], item_bytes: int) -> list[list[_Tensor]]:
    groups, size = [[]], 0
    for t in tensors:
        own = item_bytes * int(np.prod(t.shape))
        if groups[-1] and size + own > _FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(t)
        size += own
    return groups


class _Files:
    """The safetensors of a folder, one file or several with an index; read by slices."""

    def __init__(self, folder: epath.Path):
        self._folder, self._files = folder, {}
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if present(single):  # which transformers prefers as well
            names = self._open(single.name).keys()
            self._listed, self._where = single, {name: (single.name, name) for name in names}
        elif present(index):
            self._listed, self._where = index, _weight_map(index)
        elif pickled := [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")]:
            raise FolderError(
                f"{folder}: only pickled weights ({pickled[0]}), which run code when they are read; write them again "
                "with transformers' save_pretrained"
            )
        else:
            raise FolderError(f"{folder}: no model.safetensors; give the folder of a model")

    def check(self, tensors: list[_Tensor], tied: bool) -> None:
        """Raises FolderError unless the files hold exactly these. A tied model's files may hold the embedding as the
        head too, or under the head's name alone."""
        wanted = {t.name: t.shape for t in tensors}
        held = {name for name in self._where if not name.endswith("rotary_emb.inv_freq")}  # old files hold what follows
        copied = tied and _HEAD in held
        if copied:
            held = held - {_HEAD} | {_EMBEDDING}
            self._where = {_EMBEDDING: self._where[_HEAD]} | self._where
        for words, names in (("lacks", wanted.keys() - held), ("has", held - wanted.keys())):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise FolderError(f"{self._listed}: {words} the tensor {min(names)}{more}, unlike its config.json")
        for name, shape in wanted.items():
            found = self._slice(name)
            if tuple(found.get_shape()) != shape:
                raise FolderError(f"{self._folder}: {name} is {found.get_shape()}; config.json makes it {list(shape)}")
            if found.get_dtype() not in _FLOATS:
                raise FolderError(
                    f"{self._folder}: {name} has dtype {found.get_dtype()}; there are {', '.join(_FLOATS)} (quantized "
                    "weights are not read)"
                )
        if copied and not _equal(self._slice(_EMBEDDING), self._slice(_HEAD)):
            raise FolderError(
                f"{self._folder}: {_HEAD} differs from {_EMBEDDING}, but config.json ties them; if the head is its "
                "own, set tie_word_embeddings to false there"
            )

    def place(self, t: _Tensor, ours: NamedSharding) -> jax.Array:
        """The tensor as it lies in the file, over the chips that will hold it."""
        spec = (*ours.spec, *[None] * 3)
        inputs = INPUT_AXES.get(t.parameter, 1)
        theirs = (spec[inputs], spec[0]) if t.parameter in _MATRICES else spec[: len(t.shape)]
        part = self._slice(t.name)
        return jax.make_array_from_callback(t.shape, NamedSharding(ours.mesh, P(*theirs)), lambda index: part[index])

    def _slice(self, name: str):
        file, there = self._where[name]
        try:
            return self._open(file).get_slice(there)
        except SafetensorError as error:
            raise FolderError(f"{self._listed}: {file} has no tensor {there}; fetch both again") from error

    def _open(self, name: str):
        if name not in self._files:
            try:
                self._files[name] = safe_open(self._folder / name, "numpy").__enter__()
            except (SafetensorError, OSError) as error:
                raise FolderError(f"{self._folder / name}: cannot be read ({error}); fetch it again") from error
        return self._files[name]


def _weight_map(index: epath.Path) -> dict[str, tuple[str, str]]:
    """By tensor, the file that holds it, and its name there."""
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) and file for file in listed.values()):
        raise FolderError(f"{index}: its weight_map does not name a file for every tensor; fetch it again")
    for file in sorted(set(listed.values())):
        place = PurePosixPath(file)
        if place.is_absolute() or ".." in place.parts:
            raise FolderError(f"{index}: names {file}, which lies outside the folder; fetch it again")
        if not present(index.parent / file):
            raise FolderError(f"{index}: names {file}, which is not there; fetch it again")
    return {name: (file, name) for name, file in listed.items()}


def _equal(one, other) -> bool:
    """Whether two slices of files hold the same matrix; a host holds a few rows of each at a time."""
    if one.get_shape() != other.get_shape():
        return False
    rows, columns = one.get_shape()
    step = max(1, _COMPARED // columns)
    parts = [slice(n, min(n + step, rows)) for n in range(0, rows, step)]
    return all(np.array_equal(one[part], other[part]) for part in parts)

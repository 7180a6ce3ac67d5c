"""Weights of Hugging Face folders: safetensors onto the mesh, tensor by tensor, and back.

`models.architectures` reads and writes config.json, `models.tensors` lays out what the files hold.
"""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import PurePosixPath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ratchet.models import tensors
from ratchet.models.architectures import FolderError, config_json, present, read_json
from ratchet.models.decoder import DecoderConfig
from ratchet.models.tensors import MATRICES, Held, Names, Shardings, Tensor, listed, name_of

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


def load(folder: epath.Path, config: DecoderConfig, shardings: Callable[[nnx.State], Shardings]) -> nnx.State:
    """The weights of a folder as float32, laid out; a host reads its own parts only, of one tensor at a time.

    Raises FolderError when there are no safetensors, for an index that does not fit its files, for a tensor that is
    missing, too many, or of another shape or dtype than config.json says, and for a head unlike the embedding to which
    config.json ties it.
    """
    return tensors.load(_Files(folder, config.family.tied), _names(config), config, shardings)


def save(
    folder: epath.Path, config: DecoderConfig, params: nnx.State, dtype: str, special: Mapping[str, Any] | None = None
) -> None:
    """Writes config.json and safetensors of `dtype` (float32, bfloat16 or float16), about 2 GiB a file. `special` are
    ids of special tokens, as in {"eos_token_id": [2]}, by which transformers' `generate` begins and ends.

    All processes call it alike; one writes. Raises FolderError when no other library knows such a model.
    """
    described = config_json(config) | {"torch_dtype": dtype}
    folder.mkdir(parents=True, exist_ok=True)
    leaves = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    groups, where, size = _grouped(listed(config, params, _names(config)), jnp.dtype(dtype).itemsize), {}, 0
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
        (folder / "config.json").write_text(json.dumps(described | (special or {}), indent=1))
        if special:
            (folder / "generation_config.json").write_text(json.dumps(special, indent=1))


def each(config: DecoderConfig, params: nnx.State) -> Iterator[tuple[Tensor, np.ndarray]]:
    """The tensors of such a folder in float32, one at a time, each whole on every process."""
    leaves = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    for t in listed(config, params, _names(config)):
        yield t, jax.device_get(_theirs(leaves[t.parameter], t, "float32"))


def _names(config: DecoderConfig) -> Names:
    return Names("model.layers.{}.", _WITH_POST_NORMS if config.family.post_norms else _LAYER, _WHOLE)


def _theirs(leaf: jax.Array, t: Tensor, dtype: str) -> jax.Array:
    """A tensor as the file has it, whole on every process."""
    whole = NamedSharding(leaf.sharding.mesh, P()) if isinstance(leaf.sharding, NamedSharding) else None
    turned = _turning(t.layer is not None, t.shape, t.parameter in MATRICES, dtype, whole)
    return turned(leaf, t.layer or 0)


@functools.lru_cache(maxsize=64)
def _turning(
    stacked: bool, shape: tuple[int, ...], is_matrix: bool, dtype: str, whole: NamedSharding | None
) -> Callable[[jax.Array, int], jax.Array]:
    """What turns a parameter, or a layer of a stack, into a file's tensor: one program for all layers."""

    def turned(leaf, layer):
        ours = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False) if stacked else leaf
        return (ours.reshape(shape[::-1]).T if is_matrix else ours.reshape(shape)).astype(dtype)

    return jax.jit(turned, out_shardings=whole)


def _grouped(tensors: list[Tensor], item_bytes: int) -> list[list[Tensor]]:
    groups, size = [[]], 0
    for t in tensors:
        own = item_bytes * int(np.prod(t.shape))
        if groups[-1] and size + own > _FILE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(t)
        size += own
    return groups


class _Files(Held):
    """The safetensors of a folder, one file or several with an index. A `tied` model's files may hold the embedding as
    the head too, or under the head's name alone."""

    described = "config.json"

    def __init__(self, folder: epath.Path, tied: bool):
        self.place, self._folder, self._files = str(folder), folder, {}
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if present(single):  # which transformers prefers as well
            names = self._open(single.name).keys()
            self.listed, self._where = str(single), {name: (single.name, name) for name in names}
        elif present(index):
            self.listed, self._where = str(index), _weight_map(index)
        elif pickled := [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")]:
            raise FolderError(
                f"{folder}: only pickled weights ({pickled[0]}), which run code when they are read; write them again "
                "with transformers' save_pretrained"
            )
        else:
            raise FolderError(f"{folder}: no model.safetensors; give the folder of a model")
        self._copied = tied and _HEAD in self._where
        if self._copied:
            self._where = {_EMBEDDING: self._where[_HEAD]} | self._where

    @property
    def names(self) -> Set[str]:
        """What tensors there are, without a head that is the embedding again, and what old files hold in addition."""
        return {n for n in self._where if not n.endswith("rotary_emb.inv_freq") and not (self._copied and n == _HEAD)}

    def check(self, tensors: list[Tensor]) -> None:
        super().check(tensors)
        if self._copied and not _equal(self.part(_EMBEDDING), self.part(_HEAD)):
            raise FolderError(
                f"{self._folder}: {_HEAD} differs from {_EMBEDDING}, but config.json ties them; if the head is its "
                "own, set tie_word_embeddings to false there"
            )

    def part(self, name: str):
        file, there = self._where[name]
        try:
            found = self._open(file).get_slice(there)
        except SafetensorError as error:
            raise FolderError(f"{self.listed}: {file} has no tensor {there}; fetch both again") from error
        if found.get_dtype() not in _FLOATS:
            raise FolderError(
                f"{self._folder}: {name} has dtype {found.get_dtype()}; there are {', '.join(_FLOATS)} (quantized "
                "weights are not read)"
            )
        return found

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

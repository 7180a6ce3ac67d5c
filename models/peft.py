"""What was trained of a model, apart from it: low-rank changes of its matrices (LoRA, arXiv 2106.09685) as the library
PEFT takes them.

A run merges what it trains (`train.lora`), so the changes are found again as a product of two narrow matrices. That
loses rounding alone, since a sum of n changes of rank r has a rank of n·r at most.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from safetensors.numpy import save_file

from ratchet.models import huggingface
from ratchet.models.architectures import FolderError
from ratchet.models.decoder import DecoderConfig

MORE = 8
"""Columns of a sketch beyond the rank that is sought (arXiv 0909.4061)."""
ROUNDED = 1e-5
"""What is left of a change may be so large, relative to the largest number of the matrix."""
_PREFIX = "base_model.model."


def save(
    folder: epath.Path, config: DecoderConfig, weights: tuple[nnx.State, nnx.State], rank: int, base: str, dtype: str
) -> None:
    """Writes adapter_config.json and adapter_model.safetensors, of `dtype`: what changed from the first `weights` to
    the second, which PEFT adds to the model that `base` names.

    All processes call it alike; one writes. Raises FolderError when more changed than matrices of layers, by more than
    such a rank, or nothing did.
    """
    held, modules, held_as = {}, set(), jnp.dtype(dtype)
    pairs = zip(*(huggingface.each(config, of) for of in weights), strict=True)
    for (tensor, before), (_, after) in pairs:
        change = np.asarray(after, np.float64) - before
        if tensor.layer is None or change.ndim != 2:
            if change.any():
                why = f"{tensor.name} was trained, which adapters do not hold"
                raise FolderError(f"export: {why}; leave out --adapters")
            continue
        into, out = factored(change, rank)
        if abs(change - out @ into).max() > ROUNDED * abs(after).max():
            raise FolderError(f"export: {tensor.name} changed by a rank above {rank}; leave out --adapters")
        name = f"{_PREFIX}{tensor.name.removesuffix('.weight')}"
        held |= {f"{name}.lora_A.weight": into.astype(held_as), f"{name}.lora_B.weight": out.astype(held_as)}
        if change.any():
            modules.add(name.rpartition(".")[2])
    held = {name: array for name, array in held.items() if name.split(".")[-3] in modules}  # in all layers
    if not held:
        raise FolderError(f"export: nothing of {base} was changed; leave out --adapters")
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": rank,
        "target_modules": sorted(modules), "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "inference_mode": True,
    }  # fmt: skip
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(held, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1))


def factored(change: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices A [rank, in] and B [out, rank], whose product B·A is the change [out, in] where that has no higher rank,
    and near it otherwise. They are found by a sketch of its columns, which is little work for large matrices."""
    rng = np.random.default_rng(0)
    columns, _ = np.linalg.qr(change @ rng.normal(size=(change.shape[1], rank + MORE)))
    left, sizes, right = np.linalg.svd(columns.T @ change, full_matrices=False)
    into, out = np.zeros((rank, change.shape[1])), np.zeros((change.shape[0], rank))
    kept = min(rank, len(sizes))
    into[:kept], out[:, :kept] = right[:kept], (columns @ left)[:, :kept] * sizes[:kept]
    return into, out

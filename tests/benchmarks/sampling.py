"""Figures of the sampler, each against its bound: python tests/benchmarks/sampling.py.

Bytes are the compiler's, and exact. Results go to results/sampling.json with date, machine and versions.
"""

import datetime
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from launch.__main__ import keep_freed_memory, look_for_no_tpu

keep_freed_memory()
look_for_no_tpu()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from flax import nnx  # noqa: E402

from launch.preflight import Preflight, _afresh, _devices  # noqa: E402
from launch.recipes import RECIPES  # noqa: E402
from models.decoder import Decoder  # noqa: E402

RESULT = Path(__file__).parent / "results" / "sampling.json"
BOUNDS = {"bytes_to_formula": 1.3, "cache_not_aliased": 0}
"""What each figure must be at most."""


def decode_step(rows: int = 32, columns: int = 1024) -> dict[str, float]:
    """A step of decoding compiled for one v5e chip: Qwen3-0.6B, bfloat16, a full cache.

    By the formula it reads every weight once and every key and value once.
    """
    config = replace(RECIPES["qwen3-0.6b"].config.model, max_length=columns)
    here = jax.sharding.SingleDeviceSharding(_devices(Preflight(RECIPES["tiny"].config, "v5e:2x2"))[0])
    narrow = lambda x: jax.ShapeDtypeStruct(
        x.shape, jnp.bfloat16 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype, sharding=here
    )
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(params=0))))
    params = jax.tree.map(narrow, params)
    cache = jax.eval_shape(lambda params: nnx.merge(graphdef, params).new_cache(rows, columns), params)
    cache = jax.tree.map(narrow, cache)

    def step(params, cache, token_B1, column):
        model = nnx.merge(graphdef, params)
        hidden_B1D, cache = model.extend(token_B1, jnp.ones_like(token_B1, bool), cache, column)
        return model.logits(hidden_B1D[:, 0], model.head_DV()).argmax(-1), cache

    token, column = (jax.ShapeDtypeStruct(shape, jnp.int32, sharding=here) for shape in ((rows, 1), ()))
    with _afresh():
        compiled = jax.jit(step, donate_argnums=1).lower(params, cache, token, column).compile()
    weights = sum(2 * x.size for x in jax.tree.leaves(params))
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    moved = compiled.cost_analysis()["bytes accessed"]
    memory = compiled.memory_analysis()
    return {
        "bytes": moved, "formula": weights + kept, "bytes_to_formula": moved / (weights + kept),
        "cache_not_aliased": kept - memory.alias_size_in_bytes, "temporaries": memory.temp_size_in_bytes,
    }  # fmt: skip


def main() -> None:
    found = decode_step()
    for name, value in found.items():
        bound = BOUNDS.get(name)
        met = "" if bound is None else ("met" if value <= bound else "MISSED")
        print(f"{name:20} {value:14.6g} {'' if bound is None else bound:>6} {met}", flush=True)
    made = {"date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "versions": {"jax": jax.__version__, "python": platform.python_version()}}  # fmt: skip
    RESULT.write_text(json.dumps(made | {"bounds": BOUNDS, "figures": {"decode_step": found}}, indent=1))


if __name__ == "__main__":
    main()

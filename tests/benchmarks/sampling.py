"""Figures of the sampler, each against its bound: python tests/benchmarks/sampling.py [decode_step shared ...].

Bytes are the compiler's, and exact; times are medians of five in turns, by a Llama of 42M. Results go to
results/sampling.json with date, machine and versions.
"""

import random
import statistics
import string
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ratchet.launch.__main__ import look_for_no_chips
from ratchet.train import memory

memory.keep_freed()
look_for_no_chips()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from figures import report  # noqa: E402
from flax import nnx  # noqa: E402

from ratchet.launch.preflight.chips import described_chips, without_compilation_cache  # noqa: E402
from ratchet.launch.preflight.collectives import memory_traffic  # noqa: E402
from ratchet.launch.recipes import RECIPES  # noqa: E402
from ratchet.models import decoder, pages, slots  # noqa: E402
from ratchet.models.decoder import DecoderConfig  # noqa: E402
from ratchet.models.family import Family  # noqa: E402
from ratchet.models.grammar import Grammar, Pieces  # noqa: E402
from ratchet.models.kernels import Kernel  # noqa: E402
from ratchet.models.sampler import Request, Sampler  # noqa: E402
from ratchet.models.scorer import Scorer  # noqa: E402
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding  # noqa: E402

RESULT = Path(__file__).parent / "results" / "sampling.json"
LLAMA = DecoderConfig(
    16384, 512, 8, 8, 4, 1536, 256, 1, 64,
    Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)  # fmt: skip


def decode_step() -> dict[str, float]:
    """A step of decoding compiled for one v5e chip: Qwen3-0.6B, bfloat16, 32 full rows of 1024 tokens, in pages as TPUs
    keep them, and in a ring.

    By the formula it reads every weight once and every key and value once; of rows that are not full, pages read less.
    What moves within the chip's own memory is in the compiler's sum, not in that of the HBM.
    """
    ring = {f"ring_{name}": value for name, value in _step(paged=False).items()}
    return _step(paged=True) | {name: ring[name] for name in ("ring_hbm_bytes_to_formula", "ring_cache_not_aliased")}


def _step(paged: bool, rows: int = 32, columns: int = 1024) -> dict[str, float]:
    config = replace(RECIPES["qwen3-0.6b"].config.model, max_length=columns)
    chip = make_mesh(MeshConfig(), described_chips("v5e:2x2")[:1])
    kernel = Kernel("auto", slots_sharding(chip))
    assert pages.fits(kernel, rows, config.heads, config.kv_heads, config.head_size, "bfloat16")
    here = jax.sharding.NamedSharding(chip, jax.sharding.PartitionSpec())
    narrow = lambda x: jax.ShapeDtypeStruct(
        x.shape, jnp.bfloat16 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype, sharding=here
    )
    graphdef, params = decoder.shapes(config)
    layers = jax.eval_shape(lambda params: nnx.merge(graphdef, params).unstacked(), params)
    cache = jax.eval_shape(lambda params: nnx.merge(graphdef, params).new_cache(rows, columns, paged=paged), params)
    params, layers, cache = (jax.tree.map(narrow, tree) for tree in (params, layers, cache))

    def step(params, layers, cache, token_B1, column):
        model, tokens = nnx.merge(graphdef, params), (layers, token_B1, jnp.ones_like(token_B1, bool), cache)
        if paged:
            hidden_B1D, cache = model.extend_pages(*tokens, kernel)
        else:
            hidden_B1D, cache = model.extend(*tokens, column, kernel)
        return model.logits(hidden_B1D[:, 0], model.head_DV()).argmax(-1), cache

    token, column = (jax.ShapeDtypeStruct(shape, jnp.int32, sharding=here) for shape in ((rows, 1), ()))
    with without_compilation_cache():
        compiled = jax.jit(step, donate_argnums=2).lower(params, layers, cache, token, column).compile()
    weights = sum(2 * x.size for x in jax.tree.leaves(params))
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))
    moved, memory = compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis()
    read = memory_traffic(compiled.as_text())
    return {
        "formula": weights + kept, "hbm_bytes": read, "hbm_bytes_to_formula": read / (weights + kept),
        "all_bytes_to_formula": moved / (weights + kept), "cache_not_aliased": kept - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
    }  # fmt: skip


def llama():
    graphdef, params = decoder.create(LLAMA, 0)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return graphdef, jax.tree.unflatten(
        treedef, [x + 0.05 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def in_turns(*arms: Callable[[], object]) -> list[float]:
    """Median seconds of five turns of each, after one that compiles."""
    taken: list[list[float]] = [[] for _ in arms]
    for turn in range(6):
        for arm, seconds in zip(arms, taken, strict=True):
            began = time.perf_counter()
            arm()
            if turn:
                seconds.append(time.perf_counter() - began)
    return [statistics.median(seconds) for seconds in taken]


def prompts(count: int, length: int) -> list[tuple[int, ...]]:
    return [tuple(row) for row in np.random.default_rng(0).integers(2, LLAMA.vocab_size, (count, length)).tolist()]


def shared() -> dict[str, float]:
    """64 completions of 32 tokens: of 8 prompts of 128 tokens, 8 each, against 64 prompts."""
    graphdef, params = llama()
    make = Sampler(graphdef, slots=64, new_tokens=32, keep=16)
    apart = [Request(i, p) for i, p in enumerate(prompts(64, 128))]
    alike = [Request(i, apart[i // 8].prompt) for i in range(64)]
    unshared, once = in_turns(
        *(lambda asked=asked: make(params, asked, seed=0, temperature=1.0, stop=()) for asked in (apart, alike))
    )
    return {"speed_to_unshared": unshared / once}


def capturing() -> dict[str, float]:
    """64 completions of 64 tokens with K=16 distributions captured against none, and the sampler's own counts."""
    graphdef, params = llama()
    asked = [Request(i, p) for i, p in enumerate(prompts(64, 16))]
    arms = [Sampler(graphdef, slots=64, new_tokens=64, keep=keep) for keep in (16, 0)]
    say = [lambda make=make: make(params, asked, seed=0, temperature=1.0, stop=()) for make in arms]
    for arm in say:
        arm()
    count = lambda program: getattr(program, "jitted", lambda plan: program)(arms[0])._cache_size()
    programs = [count(f) for f in (slots.dispatch, slots.prefill, slots.empty)]
    on, off = in_turns(*say)
    after = [count(f) for f in (slots.dispatch, slots.prefill, slots.empty)]
    meter = arms[0].meter
    return {
        "time_to_none_captured": on / off, "dispatches_per_16_tokens": 16 * meter.dispatches / meter.steps,
        "recompiles": sum(after) - sum(programs),
    }  # fmt: skip


def review() -> dict[str, float]:
    """Six questions of 32 tokens about each of 8 contexts of 128: the contexts read once against six prefills."""
    graphdef, params = llama()
    contexts, questions = prompts(8, 128), prompts(6, 32)
    scorer = Scorer(graphdef, questions=48)
    whole = [((), (*c, *q)) for c in contexts for q in questions]
    apart = [(c, q) for c in contexts for q in questions]
    assert np.allclose(scorer(params, whole, (5, 6)), scorer(params, apart, (5, 6)), atol=1e-5)
    separate, once = in_turns(*(lambda asked=asked: scorer(params, asked, (5, 6)) for asked in (whole, apart)))
    return {"speed_to_separate": separate / once}


def guided() -> dict[str, float]:
    """64 completions of 32 tokens inside a JSON string of any length, a dispatch a token, against free ones."""
    graphdef, params = llama()
    rng, letters = random.Random(0), string.ascii_letters + " "
    words = {"".join(rng.choices(letters, k=rng.randint(2, 7))).encode() for _ in range(LLAMA.vocab_size)}
    tokens = [b"", *(bytes([byte]) for byte in range(256)), *sorted(words)][: LLAMA.vocab_size]
    grammar = Grammar.of_json({"type": "string", "minLength": 1000}, Pieces(tokens, [0], 0).spelled())
    make = Sampler(graphdef, slots=64, new_tokens=32, keep=16)
    asked = [[Request(i, p, kept) for i, p in enumerate(prompts(64, 16))] for kept in (grammar, None)]
    arms = [lambda given=given: make(params, given, seed=0, temperature=1.0, stop=(0,)) for given in asked]
    assert all(len(said.tokens) == 32 for said in arms[0]())
    kept, free = in_turns(*arms)
    return {"time_to_free": kept / free, "milliseconds_more_a_step": 1000 * (kept - free) / 32}


BOUNDS = {
    "decode_step": {
        "hbm_bytes_to_formula": 1.3, "cache_not_aliased": 0, "ring_hbm_bytes_to_formula": 1.3,
        "ring_cache_not_aliased": 0,
    },
    "shared": {"speed_to_unshared": -2.0},
    "capturing": {"time_to_none_captured": 1.03, "dispatches_per_16_tokens": 1.0, "recompiles": 0},
    "review": {"speed_to_separate": -3.0},
    "guided": {},
}
"""What each figure must be at most, or at least where it is negative."""


if __name__ == "__main__":
    report(sys.argv[1:], globals(), BOUNDS, RESULT)

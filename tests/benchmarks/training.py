"""Figures of the training engine, each against its bound: python tests/benchmarks/training.py [NAME ...].

Times are medians of five interleaved repeats, quoted as ratios; bytes and FLOPs are the compiler's, and exact. Results
go to results/training.json with date, machine and versions.
"""

import statistics
import subprocess
import sys
import tempfile
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
import optax  # noqa: E402
from figures import report  # noqa: E402

from ratchet.launch.preflight.chips import described_chips  # noqa: E402
from ratchet.launch.recipes import RECIPES  # noqa: E402
from ratchet.models import decoder  # noqa: E402
from ratchet.models.decoder import DecoderConfig  # noqa: E402
from ratchet.models.family import Family  # noqa: E402
from ratchet.train import flops, optimizer, trainer  # noqa: E402
from ratchet.train.checkpoint import Checkpoints  # noqa: E402
from ratchet.train.codec import pack_targets, unpack_targets  # noqa: E402
from ratchet.train.loss import soft_target_loss  # noqa: E402
from ratchet.train.records import Example  # noqa: E402
from ratchet.train.sharding import MeshConfig, make_mesh, place_batch  # noqa: E402
from ratchet.train.trainer import EngineConfig, State, loss_sums, make_step  # noqa: E402

RESULT = Path(__file__).parent / "results" / "training.json"


def ratio_of_times(run: dict[str, Callable[[], None]], repeats: int = 5) -> float:
    """Median time of the first over that of the second, taken in turns after one warm-up each."""
    for once in run.values():
        once()
    taken = {name: [] for name in run}
    for _ in range(repeats):
        for name, once in run.items():
            began = time.perf_counter()
            once()
            taken[name].append(time.perf_counter() - began)
    first, second = (statistics.median(t) for t in taken.values())
    return first / second


def loss_arguments(n: int, d: int, v: int, k: int, dtype) -> tuple:
    """Shapes of hidden [1, N, D], head, ids, probs, tail and weights."""
    kinds = ((1, n, d), dtype), ((d, v), jnp.float32), ((1, n, k), jnp.int32), ((1, n, k), jnp.float32)
    return *(jax.ShapeDtypeStruct(*kind) for kind in kinds), *[jax.ShapeDtypeStruct((1, n), jnp.float32)] * 2


def dense_soft(hidden, head, ids, probs, tail, weights):
    """Cross-entropy against the whole teacher distribution, the tail spread evenly, as a dense loss has it."""
    v = head.shape[1]
    teacher = (tail / v)[..., None] + jnp.zeros((*ids.shape[:2], v), jnp.float32)
    teacher = jax.vmap(jax.vmap(lambda row, i, p: row.at[i].add(p)))(teacher, ids, probs)
    logits = (hidden @ head.astype(hidden.dtype)).astype(jnp.float32)  # so that its gradient has the dtype of hidden
    return (weights * optax.softmax_cross_entropy(logits, teacher)).sum()


def one_hot(hidden, head, ids, probs, tail, weights):
    logits = (hidden @ head).astype(jnp.float32)
    return (weights * optax.softmax_cross_entropy_with_integer_labels(logits, ids[..., 0])).sum()


def one_hot_lean(hidden, head, ids, probs, tail, weights):
    """The same without the gather, whose gradient holds three arrays of float32 logits."""
    logits = (hidden @ head.astype(hidden.dtype)).astype(jnp.float32)
    is_label = ids[..., :1] == jnp.arange(head.shape[1])
    return (weights * (jax.nn.logsumexp(logits, -1) - jnp.where(is_label, logits, 0).sum(-1))).sum()


def ours(*arguments):
    return soft_target_loss(*arguments).loss


def loss_memory() -> dict[str, float]:
    """Temporaries of loss and gradient, compiled for one v5e chip: N=8192 D=1024 V=151,936 K=16.

    As in training: hidden states and products in bfloat16, the head and its gradient, which is no temporary, float32.
    """
    chip = described_chips("v5e:2x2")[0]
    here = jax.sharding.SingleDeviceSharding(chip)
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)
              for a in loss_arguments(8192, 1024, 151_936, 16, jnp.bfloat16)]  # fmt: skip
    arms = {"dense": dense_soft, "one_hot": one_hot_lean, "ours": ours}
    used = {
        name: jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes / 2**20
        for name, loss in arms.items()
    }
    return {f"{name}_mib": round(mib) for name, mib in used.items()} | {
        "to_dense": used["ours"] / used["dense"],
        "to_one_hot": used["ours"] / used["one_hot"],
    }


def loss_time() -> dict[str, float]:
    """Loss and gradient on this CPU against optax's one-hot: N=2048 D=512 V=16,384, float32."""
    rng = np.random.default_rng(0)
    n, d, v, k = 2048, 512, 16_384, 16
    hidden, head = rng.normal(size=(1, n, d)).astype(np.float32), rng.normal(size=(d, v)).astype(np.float32) * d**-0.5
    ids = np.stack([rng.choice(v, k, replace=False) for _ in range(n)])[None].astype(np.int32)
    mass = rng.dirichlet(np.ones(k + 1), (1, n)).astype(np.float32)
    arguments = hidden, head, ids, mass[..., :k], mass[..., k], np.ones((1, n), np.float32)
    arguments = tuple(map(jnp.asarray, arguments))
    plain = jax.jit(jax.value_and_grad(one_hot, (0, 1)))
    mine = jax.jit(jax.value_and_grad(ours, (0, 1)))
    once = {"ours": lambda: jax.block_until_ready(mine(*arguments)),
            "optax": lambda: jax.block_until_ready(plain(*arguments))}  # fmt: skip
    return {"to_optax_one_hot": ratio_of_times(once)}


LLAMA = Family("LlamaForCausalLM", scaled_embedding=False, activation="silu", gated=True)
SMALL = DecoderConfig(vocab_size=8192, width=256, layers=6, heads=4, kv_heads=2, head_width=64, mlp_width=768,
                      max_length=512, conv=1, family=LLAMA)  # fmt: skip


def example(rng: np.random.Generator, length: int, vocab: int, keep: int) -> Example:
    tokens = rng.integers(2, vocab, length)
    ids = np.stack([rng.choice(vocab, keep, replace=False) for _ in range(length - 1)])
    ids[:, 0] = tokens[1:]
    mass = rng.dirichlet(np.ones(keep + 1), length - 1) if keep > 1 else np.tile([1.0, 0.0], (length - 1, 1))
    weights = np.r_[0.0, np.ones(length - 1)]
    return Example.create(tokens, weights, ids, mass[:, :-1], mass[:, -1], origin="seed", lineage={})


def train_step(config: DecoderConfig, keep: int, rows: int = 4, columns: int = 512):
    """A function that runs one step of the engine in place."""
    rng, engine = np.random.default_rng(0), EngineConfig()
    mesh, tx = make_mesh(MeshConfig(), jax.devices()[:1]), optimizer.create(optimizer.OptimizerConfig())
    graphdef, params = decoder.create(config, 0)
    batch = trainer.pack([example(rng, columns, config.vocab_size, keep) for _ in range(rows)], range(rows), rows,
                         columns, columns - 1, keep)  # fmt: skip
    with jax.set_mesh(mesh):
        told = {"signal": np.zeros(rows, np.int32), "rate": np.full(rows, 1e-3, np.float32)}
        batch = place_batch(mesh, rows, batch | told)
        state = State(params, tx.init(params), jnp.zeros((), jnp.int32))
        held, step = [state], make_step(graphdef, tx, engine, state)

    def once() -> None:
        with jax.set_mesh(mesh):
            held[0], sums = step(held[0], batch)
        jax.block_until_ready(sums)

    return once


def soft_to_hard() -> dict[str, float]:
    """Steps a second with K=16 soft targets over those with hard labels (K=1), the same engine and shape."""
    return {"soft_speed_to_hard": ratio_of_times({"hard": train_step(SMALL, 1), "soft": train_step(SMALL, 16)}, 9)}


def step_flops() -> dict[str, float]:
    """FLOPs of the traced loss and gradient against the formula: Qwen3-0.6B, S=2048."""
    config = RECIPES["qwen3-0.6b"].config.model
    graphdef, params = decoder.shapes(config)
    rows, columns, keep = 1, 2048, 16
    shapes = dict.fromkeys(("tokens", "positions", "segments", "predict", "labels"), ((rows, columns), jnp.int32))
    shapes |= dict.fromkeys(("weights", "tail"), ((rows, columns), jnp.float32))
    shapes |= {"ids": ((rows, columns, keep), jnp.int32), "probs": ((rows, columns, keep), jnp.float32)}
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    formula = flops.step_flops(config, rows * columns, rows * columns, columns)
    found = {}
    for remat in ("none", "full"):
        engine = EngineConfig(dtype="bfloat16", remat=remat)
        gradient = jax.grad(lambda p, b, e=engine: loss_sums(graphdef, p, b, e).loss)
        found[f"remat_{remat}_to_formula"] = flops.traced_flops(gradient, params, batch) / formula
    return found


def save_stall() -> dict[str, float]:
    """How long training stands still in an asynchronous save of 1.2 GB against how long the save takes."""
    keys = jax.random.split(jax.random.key(0), 12)
    state = {f"w{i}": jax.random.normal(key, (25_000, 1_000)) for i, key in enumerate(keys)}  # constants would compress
    jax.block_until_ready(state)
    stalls, totals = [], []
    with tempfile.TemporaryDirectory() as place, Checkpoints(place, keep=1) as checkpoints:
        for step in range(6):
            began = time.perf_counter()
            checkpoints.save(step, state, position={})
            stalls.append(time.perf_counter() - began)
            checkpoints.wait()
            totals.append(time.perf_counter() - began)
    return {"stall_to_whole_save": statistics.median(stalls[1:]) / statistics.median(totals[1:])}


def compiling(call: Callable[[], None]) -> float:
    """Seconds that JAX spends tracing, lowering and compiling, or reading what was compiled, while `call` runs."""
    spent: list[float] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            spent.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        call()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum(spent)


def compile_depth() -> dict[str, float]:
    """Time to trace, lower and compile the step with 48 layers over that with 12."""

    def compiled(layers: int) -> float:
        config = DecoderConfig(vocab_size=1024, width=64, layers=layers, heads=2, kv_heads=2, mlp_width=128,
                               max_length=128, conv=1, family=LLAMA)  # fmt: skip
        return compiling(train_step(config, 4, 2, 128))

    jax.config.update("jax_enable_compilation_cache", False)
    compiled(6)
    taken = [(compiled(48 + n), compiled(12 + n)) for n in range(5)]  # other depths, so that nothing is cached
    return {"layers_48_to_12": statistics.median(a for a, _ in taken) / statistics.median(b for _, b in taken)}


_START = """
import sys
sys.path.insert(0, "tests/benchmarks")
import training
training.jax.config.update("jax_compilation_cache_dir", sys.argv[1])
training.jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
training.jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
step = training.train_step(training.REAL, 16)
print(training.compiling(step))
"""

REAL = DecoderConfig(vocab_size=32_000, width=256, layers=8, heads=4, kv_heads=2, head_width=64, mlp_width=768,
                     max_length=512, conv=1, family=replace(LLAMA, query_key_norm=True))  # fmt: skip


def warm_start() -> dict[str, float]:
    """Time to trace, lower and compile a first step, with compiled programs at hand over without."""
    cold, warm = [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            for taken in (cold, warm):
                run = subprocess.run([sys.executable, "-c", _START, cache], capture_output=True, text=True, check=True,
                                     cwd=Path(__file__).resolve().parents[2])  # fmt: skip
                taken.append(float(run.stdout.split()[-1]))
    return {"warm_to_cold": statistics.median(warm) / statistics.median(cold)}


def decoding() -> dict[str, float]:
    """Tokens a second of one core that are decoded from packed records: K=16, V=152k, 1,000 tokens an example."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.choice(152_000, 16, replace=False) for _ in range(1000)])
    mass = rng.dirichlet(np.ones(17), 1000)
    blob, taken = pack_targets(ids, mass[:, :16], 152_000), []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(50):
            unpack_targets(blob, 152_000)
        taken.append(time.perf_counter() - began)
    return {"tokens_per_second": 50_000 / statistics.median(taken)}


BOUNDS = {
    "loss_memory": {"to_dense": 0.10, "to_one_hot": 0.25},
    "loss_time": {"to_optax_one_hot": 1.0},
    "soft_to_hard": {"soft_speed_to_hard": -0.97},
    "step_flops": {"remat_none_to_formula": 1.03, "remat_full_to_formula": 1.36},
    "save_stall": {"stall_to_whole_save": 0.15},
    "compile_depth": {"layers_48_to_12": 1.2},
    "warm_start": {"warm_to_cold": 0.2},
    "decoding": {"tokens_per_second": -200_000},
}
"""What each figure must be at most, or at least where it is negative."""


if __name__ == "__main__":
    report(sys.argv[1:], globals(), BOUNDS, RESULT)

"""Parts of gpu.py that run the engine and the sampler on the card."""

import functools
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

from ratchet.launch.__main__ import look_for_no_chips

look_for_no_chips()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental.pallas.ops.gpu.decode_attention import gqa  # noqa: E402

from ratchet.models import decoder as decoders  # noqa: E402
from ratchet.models import triton  # noqa: E402
from ratchet.models.attention import attend  # noqa: E402
from ratchet.models.decoder import DecoderConfig  # noqa: E402
from ratchet.models.family import Family  # noqa: E402
from ratchet.models.kernels import Kernel, Scores, attend_rows  # noqa: E402
from ratchet.models.sampler import Request, Sampler  # noqa: E402
from ratchet.train import flops, optimizer  # noqa: E402
from ratchet.train.loss import soft_target_loss  # noqa: E402
from ratchet.train.sharding import MeshConfig, make_mesh, place_batch, state_sharding  # noqa: E402
from ratchet.train.trainer import EngineConfig, State, make_step  # noqa: E402

Figures = Iterator[tuple[str, float]]
SEED = 0
QWEN = SimpleNamespace(vocab=151_936, width=1024, layers=28, heads=16, kv_heads=8, head=128, mlp=3072)
SMOL = SimpleNamespace(vocab=49_152, width=576, layers=30, heads=9, kv_heads=3, head=64, mlp=1536)
TOY = SimpleNamespace(vocab=512, width=32, layers=2, heads=2, kv_heads=1, head=16, mlp=64)


def on_gpu() -> bool:
    return jax.default_backend() == "gpu"


def shape(real: SimpleNamespace) -> SimpleNamespace:
    return real if on_gpu() else TOY


def size(real: int, toy: int) -> int:
    return real if on_gpu() else toy


def knowing(function: Callable, **more) -> dict:
    """Of these arguments the ones that the function knows: older code does without."""
    return {name: value for name, value in more.items() if name in inspect.signature(function).parameters}


def seconds(call: Callable[[], object], times: int = 5, calls: int = 1) -> float:
    """Median of a call, whose results are waited for after every so many of them."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready([call() for _ in range(calls)][-1])
        taken.append((time.perf_counter() - began) / calls)
    return statistics.median(taken)


@functools.cache
def bandwidth() -> float:
    """Bytes a second of a copy, read and written."""
    x = jnp.zeros(size(2**30, 2**20), jnp.bfloat16)
    return 2 * x.nbytes / seconds(functools.partial(jax.jit(lambda x: x + 1), x), calls=5)


def peaks() -> Figures:
    n = size(8192, 256)
    x = jax.random.normal(jax.random.key(SEED), (n, n), jnp.bfloat16)
    yield "copy_tb_per_second", bandwidth() / 1e12
    yield "matmul_tflops", 2e-12 * n**3 / seconds(functools.partial(jax.jit(lambda x: x @ x), x), calls=10)


def decoder(s: SimpleNamespace, length: int):
    """The shape as a decoder, Qwen3's or Llama's."""
    family = Family("Qwen3ForCausalLM" if s is QWEN else "LlamaForCausalLM", scaled_embedding=False, activation="silu",
                    gated=True, query_key_norm=s is QWEN)  # fmt: skip
    return DecoderConfig(s.vocab, s.width, s.layers, s.heads, s.kv_heads, s.mlp, length, 1, s.head, family)


def segments_of(rows: int, columns: int, segments: int):
    """Rows of so many equal segments."""
    return np.tile(1 + np.arange(columns) * segments // columns, (rows, 1)).astype(np.int32)


def batch_of(s: SimpleNamespace, rows: int, columns: int, segments: int, keep: int = 16) -> dict:
    """Random tokens with random targets, as `train.batches.pack` lays them out."""
    rng, numbers = np.random.default_rng(SEED), segments_of(rows, columns, segments)
    tokens = rng.integers(0, s.vocab, (rows, columns)).astype(np.int32)
    labels, mass = np.roll(tokens, -1, 1), rng.dirichlet(np.ones(keep + 1), (rows, columns)).astype(np.float32)
    ids = (labels[..., None] + np.arange(keep) * (s.vocab // keep - 1)) % s.vocab
    columns_RT = np.tile(np.arange(columns, dtype=np.int32), (rows, 1))
    return {
        "tokens": tokens, "positions": columns_RT % -(-columns // segments), "segments": numbers, "labels": labels,
        "predict": columns_RT, "weights": np.ones((rows, columns), np.float32), "ids": ids.astype(np.int32),
        "probs": mass[..., :keep], "tail": mass[..., keep],
    }  # fmt: skip


class Step:
    """A compiled training step of the engine, in place."""

    def __init__(self, s: SimpleNamespace, rows: int, columns: int, segments: int = 1, **engine):
        config, adamw = decoder(s, columns), optimizer.OptimizerConfig("adamw", 3e-4)
        tx = optimizer.create(adamw, **knowing(optimizer.create, steps=100))
        self._mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        with jax.set_mesh(self._mesh):
            graphdef, params = decoders.create(config, SEED)
            told = {"signal": np.zeros(rows, np.int32), "rate": np.full(rows, 3e-4, np.float32)}
            self._batch = place_batch(self._mesh, rows, batch_of(s, rows, columns, segments) | told)
            state = State(params, tx.init(params), jnp.zeros((), jnp.int32))
            self._state = jax.device_put(state, state_sharding(self._mesh, state))
            known = knowing(make_step, like=self._state, segments=segments)
            step = make_step(graphdef, tx, EngineConfig(dtype="bfloat16", **engine), **known)
            began = time.perf_counter()
            self._run = step.lower(self._state, self._batch).compile()
            self.compiled = time.perf_counter() - began
        self._flops = flops.step_flops(config, rows * columns, rows * columns, columns // segments)
        m = self._run.memory_analysis()
        given = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        self.predicted = given + m.temp_size_in_bytes

    def __call__(self):
        with jax.set_mesh(self._mesh):
            self._state, sums = self._run(self._state, self._batch)
        return sums

    def mfu(self, taken: float) -> float | None:
        """Of the data sheet's peak, None where there is none; a token attends to its own segment alone."""
        return flops.mfu(self._flops, taken, jax.devices()[:1])


def training(s: SimpleNamespace, rows: int, columns: int, segments: int, remat: str) -> Figures:
    name = f"{rows}x{columns}_{remat}_{segments}"
    try:
        step = Step(shape(s), size(rows, 2), size(columns, 64), segments, remat=remat)
        taken = seconds(step, 8)
    except Exception as error:  # out of memory, above all
        print(f"{name}: {str(error)[:300]}", flush=True)
        yield f"{name}_failed", 1
        return
    if (share := step.mfu(taken)) is not None:
        yield f"{name}_mfu", share
    yield f"{name}_ms", 1000 * taken
    yield f"{name}_predicted_gib", step.predicted / 2**30
    yield f"{name}_compiling_seconds", step.compiled
    if memory := jax.devices()[0].memory_stats():
        yield f"{name}_peak_so_far_to_predicted", memory["peak_bytes_in_use"] / step.predicted
        yield f"{name}_predicted_to_peak_so_far", step.predicted / memory["peak_bytes_in_use"]


def train() -> Figures:
    """A step of Qwen3-0.6B's shape: rows × columns, what is kept, segments of a row."""
    yield from training(QWEN, 8, 2048, 1, "none")
    yield from training(QWEN, 8, 2048, 8, "none")
    yield from training(QWEN, 16, 2048, 1, "none")


def train_remat() -> Figures:
    for remat in ("dots", "full"):
        yield from training(QWEN, 16, 2048, 1, remat)


def train_small() -> Figures:
    """SmolLM2-135M's shape."""
    yield from training(SMOL, 32, 1024, 1, "none")


def attention() -> Figures:
    """A layer's, forward and backward, in rows of one, of eight and of unevenly many segments with padding, and of
    these in a layer that slides, a row of them against float32 products."""
    s, rows, t = shape(QWEN), size(8, 2), size(2048, 64)
    rng = np.random.default_rng(SEED)
    draw = lambda heads: jnp.asarray(rng.normal(size=(rows, t, heads, s.head)), jnp.bfloat16)
    q, k, v, way = draw(s.heads), draw(s.kv_heads), draw(s.kv_heads), draw(s.heads)
    cuts = np.sort(rng.integers(1, t - 7, (rows, 20)), axis=1)
    uneven = 1 + np.sum(np.arange(t)[None, :, None] >= cuts[:, None], axis=2)
    uneven[:, t - 7 :] = 0

    def both(by: Callable, segments_RT, *operands):
        real = (segments_RT > 0)[..., None, None]
        mixed, back = jax.vjp(lambda *o: jnp.where(real, by(*o, segments_RT), 0), *operands)
        return mixed, back(way[: len(mixed)].astype(mixed.dtype))

    one_row = [x[:1].astype(jnp.float32) for x in (q, k, v)]
    single, window = segments_of(rows, t, 1), size(512, 16)
    arms = ("one", 1, single, 0), ("eight", 8, segments_of(rows, t, 8), 0), ("uneven", 21, uneven, 0)
    for name, most, segments, seen in (*arms, ("sliding_one", 1, single, window), ("sliding", 21, uneven, window)):
        scores, kernel = Scores(s.head**-0.5, window=seen), Kernel("auto", **knowing(Kernel, segments=most))
        slides, last = (jnp.asarray(True), jnp.asarray(seen)) if seen else (None, None)

        def ours(q, k, v, of, slides=slides, last=last, scores=scores, kernel=kernel):
            return attend_rows(q, k, v, of, slides, last, scores, kernel)

        def products(q, k, v, segments_RT, seen=seen, scores=scores):
            back = jnp.arange(t)[:, None] - jnp.arange(t)
            mask = (segments_RT[:, :, None] == segments_RT[:, None]) & (back >= 0) & (back < (seen or t))
            return attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask, scores.scale)

        plain = jax.jit(functools.partial(both, products))
        run = functools.partial(jax.jit(functools.partial(both, ours)), jnp.asarray(segments), q, k, v)
        yield f"{name}_ms", 1000 * seconds(run, calls=10)
        with jax.default_matmul_precision("highest"):
            pairs = zip(*map(jax.tree.leaves, (run(), plain(jnp.asarray(segments[:1]), *one_row))), strict=True)
        far = [float(jnp.linalg.norm(a[:1].astype(jnp.float32) - b) / jnp.linalg.norm(b)) for a, b in pairs]
        yield f"{name}_error", max(far)


def loss() -> Figures:
    """Loss and gradient of 16,384 tokens against dense cross-entropy with hard labels."""
    s, n = shape(QWEN), size(16_384, 256)
    batch = {name: jnp.asarray(array) for name, array in batch_of(s, 1, n, 1).items()}
    hidden = jax.random.normal(jax.random.key(SEED), (1, n, s.width), jnp.bfloat16)
    head = jax.random.normal(jax.random.key(SEED), (s.width, s.vocab)) * s.width**-0.5
    targets = tuple(batch[name] for name in ("ids", "probs", "tail", "weights"))

    def dense(hidden, head, labels):
        logits = (hidden @ head.astype(hidden.dtype)).astype(jnp.float32)  # so that its gradient is in bfloat16, too
        is_label = labels[..., None] == jnp.arange(s.vocab)
        return (jax.nn.logsumexp(logits, -1) - jnp.where(is_label, logits, 0).sum(-1)).sum()

    arms = {"ours": (lambda *o: soft_target_loss(*o).loss, targets), "dense": (dense, (batch["labels"],))}
    taken, held = {}, {}
    for name, (function, more) in arms.items():
        run = jax.jit(jax.value_and_grad(function, (0, 1))).lower(hidden, head, *more).compile()
        held[name] = run.memory_analysis().temp_size_in_bytes
        taken[name] = seconds(functools.partial(run, hidden, head, *more), calls=3)
        yield f"{name}_ms", 1000 * taken[name]
        yield f"{name}_temporaries_gib", held[name] / 2**30
    yield "time_to_dense", taken["ours"] / taken["dense"]
    yield "memory_to_dense", held["ours"] / held["dense"]


def sampler(slots: int, new_tokens: int, keep: int, length: int, attention: str):
    """A sampler of Qwen3-0.6B's shape in bfloat16, its weights, and the bytes of these."""
    graphdef, params = decoders.create(decoder(shape(QWEN), length), SEED)
    noisy = lambda x: (x + 0.02 * jax.random.normal(jax.random.key(x.size), x.shape)).astype(jnp.bfloat16)
    params = jax.jit(functools.partial(jax.tree.map, noisy))(params)
    made = Sampler(graphdef, slots=slots, new_tokens=new_tokens, keep=keep, dtype="bfloat16", attention=attention)
    return made, params, sum(2 * x.size for x in jax.tree.leaves(params))


def requests(count: int, length: int, distinct: int | None = None) -> list:
    rng = np.random.default_rng(SEED)
    prompts = [tuple(rng.integers(0, shape(QWEN).vocab, length).tolist()) for _ in range(distinct or count)]
    return [Request(i, prompts[i * len(prompts) // count]) for i in range(count)]


def decoding(slots: int, prompt: int, new_tokens: int, keep: int, attention: str = "auto") -> Figures:
    """Steps alone, between dispatches: a step reads every weight once, and of each slot the keys and values so far."""
    slots, prompt, new_tokens = size(slots, 4), size(prompt, 32), size(new_tokens, 192)
    made, params, weights = sampler(slots, new_tokens, keep, prompt + new_tokens, attention)
    asked, ends, steps, whole = requests(slots, prompt), [], [], []
    for _ in range(4):
        ends.append([])
        began, before = time.perf_counter(), made.meter.steps
        made(params, asked, seed=0, temperature=1.0, stop=(), advance=lambda _: ends[-1].append(time.perf_counter()))
        whole.append(slots * new_tokens / (time.perf_counter() - began))
        steps.append((made.meter.steps - before) / new_tokens)
    assert set(steps) == {1.0}, "every slot says all of its tokens at once"
    gaps = [later - earlier for run in ends[1:] for earlier, later in zip(run, run[1:], strict=False)]
    taken = statistics.median(gaps) / 64  # of a step after the first 64
    s = shape(QWEN)
    kept = slots * (prompt + (64 + new_tokens) / 2) * s.layers * 2 * s.kv_heads * s.head * 2
    name = f"{slots}_slots"
    yield f"{name}_step_ms", 1000 * taken
    yield f"{name}_bound_ms", 1000 * (weights + kept) / bandwidth()
    yield f"{name}_share_of_bound", (weights + kept) / bandwidth() / taken
    yield f"{name}_tokens_per_second_in_all", statistics.median(whole[1:])


def decode_64() -> Figures:
    yield from decoding(64, 896, 256, 0)


def decode_256() -> Figures:
    yield from decoding(256, 448, 192, 16)


def decode_1() -> Figures:
    yield from decoding(1, 64, 256, 0)


def decode_64_triton() -> Figures:
    """The same steps as those of `decode_64`, with attention by `models.triton`."""
    yield from decoding(64, 896, 256, 0, "triton")


def decode_256_triton() -> Figures:
    yield from decoding(256, 448, 192, 16, "triton")


def decode_1_triton() -> Figures:
    yield from decoding(1, 64, 256, 0, "triton")


def cache() -> Figures:
    """Attention of one token a row to the keys and values before it, over all layers: the matrix products that decoding
    takes, against the time that memory takes to read them, our kernel for it, Pallas', and cuDNN's."""
    s = shape(QWEN)
    for rows, length in ((64, 1024), (256, 512), (1, 256)):
        rows, length = size(rows, min(rows, 4)), size(length, 64)
        keys = jax.random.split(jax.random.key(SEED), 2 * s.layers)
        kept = [jax.random.normal(key, (rows, s.kv_heads, length, s.head), jnp.bfloat16) for key in keys]
        q = jax.random.normal(jax.random.key(SEED), (rows, 1, s.heads, s.head), jnp.bfloat16)
        bound = sum(x.nbytes for x in kept) / bandwidth()
        yield f"{rows}x{length}_bound_us", 1e6 * bound
        mask, halves = jnp.ones((rows, 1, length), bool), (kept[::2], kept[1::2])
        turned = [[x.swapaxes(1, 2) for x in half] for half in halves]
        pallas = functools.partial(gqa, k_splits=size(16, 1), block_k=size(min(128, length // 16), 64),
                                   interpret=not on_gpu())  # fmt: skip
        cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn" if on_gpu() else None)
        places = jnp.full((rows, 1), length - 1), jnp.tile(jnp.arange(length), (rows, 1))
        shared = triton.Shared(jnp.arange(rows, dtype=jnp.uint32)[:, None], jnp.ones(rows, bool), length)
        kernel = functools.partial(triton.attend, window=0, scores=Scores(s.head**-0.5), kernel=Kernel("triton"),
                                   shared=shared)  # fmt: skip
        arms = {
            "ours": (lambda q, k, v, mask=mask: attend(q, k, v, mask, s.head**-0.5), halves),
            "triton": (lambda q, k, v, run=kernel, at=places: run(q, k, v, *at), halves),
            "pallas": (lambda q, k, v, run=pallas: run(q[:, 0], k.swapaxes(1, 2), v.swapaxes(1, 2))[:, None], halves),
            "cudnn": (cudnn, turned),
        }
        said = {}
        for name, (function, (ks, vs)) in arms.items():
            run = jax.jit(lambda q, ks, vs, one=function: [one(q, *kv) for kv in zip(ks, vs, strict=True)])
            said[name] = run(q, ks, vs)[0].astype(jnp.float32)
            taken = seconds(functools.partial(run, q, ks, vs), calls=3)
            yield f"{rows}x{length}_{name}_us", 1e6 * taken
            yield f"{rows}x{length}_{name}_share_of_bound", bound / taken
            yield f"{rows}x{length}_{name}_difference", float(jnp.abs(said[name] - said["ours"]).max())


def shared(attention: str = "auto") -> Figures:
    """64 completions of 128 tokens: of 8 prompts of 512, 8 each, against 64 prompts; and how much faster it would be if
    reading took no time but for an eighth of the prompts."""
    slots, prompt, new_tokens = size(64, 8), size(512, 32), 128
    made, params, _ = sampler(slots, new_tokens, 0, prompt + new_tokens, attention)

    def say(asked: list) -> tuple[float, float]:
        began, ends = time.perf_counter(), []
        made(params, asked, seed=0, temperature=1.0, stop=(), advance=lambda _: ends.append(time.perf_counter()))
        return time.perf_counter() - began, (ends[0] - began) - (ends[1] - ends[0])

    own, alike = requests(slots, prompt), requests(slots, prompt, slots // 8)
    (apart, reading), (once, _) = (np.median([say(asked) for _ in range(4)][1:], axis=0) for asked in (own, alike))
    yield "own_prompts_tokens_per_second", slots * new_tokens / apart
    yield "speed_to_own_prompts", apart / once
    yield "speed_bound", apart / (apart - reading * 7 / 8)


def shared_triton() -> Figures:
    yield from shared("triton")


def deterministic_step() -> Figures:
    """What determinism costs a step, and whether two runs of seven steps end in the same bits."""
    ends, taken = [], 0.0
    for _ in range(2):
        step = Step(shape(QWEN), size(8, 2), size(2048, 64), 8, deterministic=True)
        taken = seconds(step, 5)
        ends.append({name: np.asarray(value) for name, value in jax.device_get(step()).items()})
        del step
    yield "ms", 1000 * taken
    yield "sums_that_differ", sum(bool(ends[0][name] != ends[1][name]) for name in ends[0])

"""256 requests of skewed length by the same 42M Llama, greedily, side by side with the peers: make bench-peers.

Peers live in an environment of their own. Each arm is a process that samples all requests twice and prints the tokens
a second of the second time; arms take turns five times. Peers sample in batches of the size that is best for them,
tried first, in the order of their prompts' lengths. All say the same tokens, which is checked. Ids of a fixed set,
one in 25, end a sequence: lengths are as good as geometric, up to 128.
"""

import datetime
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULT = HERE / "results" / "sampling-peers.json"
VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, MLP_WIDTH = 16384, 512, 8, 8, 4, 64, 1536
REQUESTS, LONGEST_PROMPT, NEW_TOKENS, FIRST = 256, 64, 128, 1
ROPE_BASE = 1_000_000
"""What tunix 0.1.7 rotates Llama by, whatever its config says."""
SIZES = (16, 32, 64, 128)
BOUNDS = {"torch": 2.0, "tunix": 1.5}
"""Tokens a second of ours over theirs must be at least this."""
Say = Callable[[list[list[int]]], list[list[int]]]


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    made = [[FIRST, *rng.integers(2, VOCAB, rng.integers(7, LONGEST_PROMPT)).tolist()] for _ in range(REQUESTS)]
    return sorted(made, key=len)


@functools.cache
def stops() -> tuple[int, ...]:
    return tuple(np.random.default_rng(1).choice(np.arange(2, VOCAB), VOCAB // 25, replace=False).tolist())


def write_model(folder: Path) -> None:
    """Random weights, large enough for the next token to hang on the text."""
    import jax
    from etils import epath

    from ratchet.models import decoder, huggingface
    from ratchet.models.decoder import DecoderConfig
    from ratchet.models.family import Family

    family = Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True,
                    norm_epsilon=1e-6, rope_base=float(ROPE_BASE))  # fmt: skip
    config = DecoderConfig(VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, MLP_WIDTH, 256, 1, HEAD_WIDTH, family)
    _, params = decoder.create(config, 0)
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.05 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    huggingface.save(epath.Path(folder), config, jax.tree.unflatten(treedef, noisy), "float32")


def ours(folder: Path, size: int) -> Say:
    from ratchet.launch.__main__ import look_for_no_chips
    from ratchet.train import memory

    memory.keep_freed()
    look_for_no_chips()
    import jax
    from etils import epath

    from ratchet.models import architectures, decoder, huggingface
    from ratchet.models.sampler import Request, Sampler
    from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding

    config = architectures.read_config(epath.Path(folder))
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    params = huggingface.load(epath.Path(folder), config, lambda p: state_sharding(mesh, p))
    sampler = Sampler(decoder.create(config, 0)[0], slots=size, new_tokens=NEW_TOKENS, keep=16)

    def say(asked: list[list[int]]) -> list[list[int]]:
        requests = [Request(i, tuple(p)) for i, p in enumerate(asked)]
        said = sampler(params, requests, seed=0, temperature=0.0, stop=stops())
        print(f"busy {sampler.meter.busy:.3f}", file=sys.stderr)
        return [s.tokens.tolist() for s in said]

    return say


def torch(folder: Path, size: int) -> Say:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def say(asked: list[list[int]]) -> list[list[int]]:
        said = []
        for start in range(0, len(asked), size):
            batch = asked[start : start + size]
            width = max(map(len, batch))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            out = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW_TOKENS,
                eos_token_id=list(stops()), pad_token_id=0, cache_implementation="static", disable_compile=True,
            )  # fmt: skip
            said += [until_stop(row[width:].tolist()) for row in out]
        return said

    return say


def tunix(folder: Path, size: int) -> Say:
    import jax
    from tunix.generate.sampler import CacheConfig, Sampler
    from tunix.models.llama3 import model, params

    class Numbers:
        """Text is the ids themselves; every prompt begins with the first."""

        encode = staticmethod(lambda text: [int(i) for i in text.split()][1:])
        decode = staticmethod(lambda ids: "")
        bos_id, eos_id, pad_id = (staticmethod(lambda i=i: i) for i in (FIRST, stops()[0], 0))

    config = model.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCAB, embed_dim=WIDTH, hidden_dim=MLP_WIDTH, num_heads=HEADS,
        head_dim=HEAD_WIDTH, num_kv_heads=KV_HEADS, rope_theta=ROPE_BASE, norm_eps=1e-6, weight_tying=False,
    )  # fmt: skip
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        llama = params.create_model_from_safe_tensors(str(folder), config, mesh, dtype=jax.numpy.float32)
        cache = CacheConfig(LONGEST_PROMPT + NEW_TOKENS, LAYERS, KV_HEADS, HEAD_WIDTH)
        sampler = Sampler(llama, Numbers(), cache)

    def say(asked: list[list[int]]) -> list[list[int]]:
        said = []
        with jax.set_mesh(mesh):
            for start in range(0, len(asked), size):
                texts = [" ".join(map(str, p)) for p in asked[start : start + size]]
                out = sampler(
                    texts, max_generation_steps=NEW_TOKENS, max_prompt_length=LONGEST_PROMPT, eos_tokens=stops()
                )
                said += [until_stop(np.asarray(row).tolist()) for row in out.tokens]
        return said

    return say


def until_stop(tokens: list[int]) -> list[int]:
    ends = np.flatnonzero(np.isin(tokens[:NEW_TOKENS], stops()))
    return tokens[: ends[0] if len(ends) else NEW_TOKENS]


def arm(name: str, folder: str, size: int) -> None:
    """Prints (tokens a second, tokens), after one time that is not counted; stop tokens count as said."""
    say = {"ours": ours, "torch": torch, "tunix": tunix}[name](Path(folder), size)
    asked = prompts()
    say(asked[:: REQUESTS // size])
    say(asked if name == "ours" else asked[:size])
    began = time.perf_counter()
    said = say(asked)
    taken = time.perf_counter() - began
    tokens = sum(len(s) + (len(s) < NEW_TOKENS) for s in said)
    Path(folder, f"{name}.json").write_text(json.dumps(said))
    print(tokens / taken, tokens)


def run(name: str, folder: str, size: int) -> float:
    python = ROOT / (".venv" if name == "ours" else ".venv-peers") / "bin" / "python"
    done = subprocess.run([python, __file__, name, folder, str(size)], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr[-1500:]}")
    speed, tokens = (float(n) for n in done.stdout.split()[-2:])
    print(f"{name}, {size} at a time: {speed:.0f} tokens/s ({tokens:.0f})", flush=True)
    return speed


def main() -> None:
    from ratchet.launch.__main__ import look_for_no_chips
    from ratchet.train import memory

    memory.keep_freed()
    look_for_no_chips()
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder) / "model")
        place = str(Path(folder) / "model")
        tried = {name: {size: run(name, place, size) for size in SIZES} for name in ("ours", "torch", "tunix")}
        best = {name: max(speeds, key=speeds.get) for name, speeds in tried.items()}
        speeds: dict[str, list[float]] = {name: [] for name in best}
        for _ in range(5):
            for name, size in best.items():
                speeds[name].append(run(name, place, size))
        said = {name: json.loads(Path(place, f"{name}.json").read_text()) for name in best}
    same = {name: sum(a == b for a, b in zip(said["ours"], said[name], strict=True)) for name in BOUNDS}
    middle = {name: statistics.median(all_) for name, all_ in speeds.items()}
    ratios = {name: middle["ours"] / middle[name] for name in BOUNDS}
    print(json.dumps({"ratios": ratios, "requests that say the same": same}))
    RESULT.write_text(json.dumps({
        "date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores", "tried": tried, "best": best,
        "tokens_a_second": speeds, "ratios": ratios, "bounds": BOUNDS, "requests_that_say_the_same": same,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        arm(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()

"""A training step of the same small Llama shape, side by side with the peers: make bench-peers.

Peers live in an environment of their own (.venv-peers); each arm is a process that prints the milliseconds of its
median step of ten, and arms take turns five times. 4 rows of 512 tokens, float32, AdamW, hard labels.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULT = HERE / "results" / "peers.json"
ROWS, COLUMNS = 4, 512
VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_WIDTH, MLP_WIDTH = 8192, 256, 6, 4, 2, 64, 768


def median_step(step: Callable[[], None], count: int = 10) -> float:
    """Milliseconds; two steps warm up."""
    taken = []
    for _ in range(count + 2):
        began = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[2:])


def ours() -> float:
    sys.path.insert(0, str(HERE))
    import training

    shape = (training.SMALL.width, training.SMALL.layers, training.SMALL.mlp_width, training.SMALL.vocab_size)
    assert shape == (WIDTH, LAYERS, MLP_WIDTH, VOCAB), "the arms must train the same shape"
    return median_step(training.train_step(training.SMALL, 1, ROWS, COLUMNS))


def torch() -> float:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=HEAD_WIDTH, intermediate_size=MLP_WIDTH, tie_word_embeddings=True,
        max_position_embeddings=COLUMNS,
    ))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    tokens = torch.randint(0, VOCAB, (ROWS, COLUMNS))

    def step() -> None:
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return median_step(step)


def tunix() -> float:
    import jax
    import numpy as np
    import optax
    from flax import nnx
    from tunix.models.llama3 import model as llama
    from tunix.sft import peft_trainer

    config = llama.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCAB, embed_dim=WIDTH, hidden_dim=MLP_WIDTH, num_heads=HEADS,
        head_dim=HEAD_WIDTH, num_kv_heads=KV_HEADS, rope_theta=10_000, norm_eps=1e-6, weight_tying=True,
    )  # fmt: skip
    model = llama.Llama3(config, rngs=nnx.Rngs(0))
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))
    tokens = np.random.default_rng(0).integers(0, VOCAB, (ROWS, COLUMNS)).astype(np.int32)
    positions = np.tile(np.arange(COLUMNS), (ROWS, 1))
    causal = np.tril(np.ones((ROWS, COLUMNS, COLUMNS), bool))
    batch = peft_trainer.TrainingInput(input_tokens=tokens, input_mask=np.ones_like(tokens))
    steps, asked = 12, []

    def batches():
        for _ in range(steps):
            jax.block_until_ready(nnx.state(model))  # the step before has ended
            asked.append(time.perf_counter())
            yield batch

    with jax.set_mesh(mesh):
        config = peft_trainer.TrainingConfig(eval_every_n_steps=10**6, max_steps=steps)
        trainer = peft_trainer.PeftTrainer(model, tx, config)
        trainer = trainer.with_gen_model_input_fn(lambda b: {
            "input_tokens": b.input_tokens, "input_mask": b.input_mask, "positions": positions,
            "attention_mask": causal,
        })  # fmt: skip
        trainer.train(batches(), cache_nnx_graph=False)
    return 1000 * statistics.median(later - earlier for earlier, later in pairwise(asked[2:]))


ARMS = {"ours": ours, "torch": torch, "tunix": tunix}
BOUNDS = {"torch": 1.0, "tunix": 0.9}
"""Our time over the peer's must be at most this."""


def main() -> None:
    pythons = {"ours": ROOT / ".venv/bin/python"} | dict.fromkeys(("torch", "tunix"), ROOT / ".venv-peers/bin/python")
    taken: dict[str, list[float]] = {name: [] for name in ARMS}
    for _ in range(5):
        for name, python in pythons.items():
            run = subprocess.run([python, __file__, name], capture_output=True, text=True, cwd=ROOT)
            if run.returncode:
                sys.exit(f"{name}: {run.stderr[-1500:]}")
            taken[name].append(float(run.stdout.split()[-1]))
            print(name, f"{taken[name][-1]:.1f} ms", flush=True)
    middle = {name: statistics.median(times) for name, times in taken.items()}
    ratios = {f"ours_to_{name}": middle["ours"] / middle[name] for name in BOUNDS}
    print(ratios, {f"ours_to_{name}": bound for name, bound in BOUNDS.items()})
    RESULT.write_text(json.dumps({
        "date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores", "milliseconds": taken,
        "ratios": ratios, "bounds": BOUNDS,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    print(ARMS[sys.argv[1]]()) if len(sys.argv) > 1 else main()

"""A training step of the same small Llama shape, side by side with the peers: make bench-peers.

Peers live in an environment of their own. Each arm is a process that prints the milliseconds of its median
step of ten and its peak memory in MiB; arms take turns five times. 4 rows of 512 tokens, float32, AdamW, hard labels;
then distilling: K=16 soft targets against dense logits of a teacher, given to both.
"""

import datetime
import json
import os
import resource
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


def ours(keep: int = 1) -> float:
    sys.path.insert(0, str(HERE))
    import training

    shape = (training.SMALL.width, training.SMALL.layers, training.SMALL.mlp_width, training.SMALL.vocab_size)
    assert shape == (WIDTH, LAYERS, MLP_WIDTH, VOCAB), "the arms must train the same shape"
    return median_step(training.train_step(training.SMALL, keep, ROWS, COLUMNS))


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


def tunix(distil: bool = False) -> float:
    import jax
    import numpy as np
    import optax
    from flax import nnx
    from tunix.distillation import distillation_trainer, strategies
    from tunix.models.llama3 import model as llama
    from tunix.sft import peft_trainer

    model = llama.Llama3(llama.ModelConfig(
        num_layers=LAYERS, vocab_size=VOCAB, embed_dim=WIDTH, hidden_dim=MLP_WIDTH, num_heads=HEADS,
        head_dim=HEAD_WIDTH, num_kv_heads=KV_HEADS, rope_theta=10_000, norm_eps=1e-6, weight_tying=True,
    ), rngs=nnx.Rngs(0))  # fmt: skip
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-3))
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (ROWS, COLUMNS)).astype(np.int32)
    positions = np.tile(np.arange(COLUMNS), (ROWS, 1))
    causal = np.tril(np.ones((ROWS, COLUMNS, COLUMNS), bool))
    batch = peft_trainer.TrainingInput(input_tokens=tokens, input_mask=np.ones_like(tokens))
    steps, asked = 12, []

    def batches():
        for _ in range(steps):
            jax.block_until_ready(nnx.state(model))  # the step before has ended
            asked.append(time.perf_counter())
            yield batch

    def inputs(b) -> dict:
        return {"input_tokens": b.input_tokens, "input_mask": b.input_mask, "positions": positions,
                "attention_mask": causal}  # fmt: skip

    with jax.set_mesh(mesh):
        if distil:
            logits = jax.numpy.asarray(rng.normal(size=(ROWS, COLUMNS, VOCAB)), np.float32)  # made once, outside steps
            strategy = strategies.LogitStrategy(
                lambda m, **given: m(given["input_tokens"], given["positions"], None, given["attention_mask"])[0],
                lambda m, **_: logits, lambda input_tokens, **_: jax.nn.one_hot(input_tokens, VOCAB),
                temperature=1.0, alpha=1.0,
            )  # fmt: skip
            config = distillation_trainer.TrainingConfig(eval_every_n_steps=10**6, max_steps=steps)
            trainer = distillation_trainer.DistillationTrainer(model, model, strategy, tx, config)
        else:
            config = peft_trainer.TrainingConfig(eval_every_n_steps=10**6, max_steps=steps)
            trainer = peft_trainer.PeftTrainer(model, tx, config)
        trainer.with_gen_model_input_fn(inputs).train(batches(), cache_nnx_graph=False)
    return 1000 * statistics.median(later - earlier for earlier, later in pairwise(asked[2:]))


ARMS = {
    "ours": ours,
    "torch": torch,
    "tunix": tunix,
    "ours distilling": lambda: ours(16),
    "tunix distilling": lambda: tunix(distil=True),
}
BOUNDS = {
    ("ours", "torch"): 1.0, ("ours", "tunix"): 0.9, ("ours distilling", "tunix distilling"): 1.0,
}  # fmt: skip
"""The time of the first over that of the second must be at most this; distilling, memory too."""


def main() -> None:
    taken: dict[str, list[list[float]]] = {name: [] for name in ARMS}
    for _ in range(5):
        for name in ARMS:
            python = ROOT / (".venv" if name.startswith("ours") else ".venv-peers") / "bin" / "python"
            run = subprocess.run([python, __file__, name], capture_output=True, text=True, cwd=ROOT)
            if run.returncode:
                sys.exit(f"{name}: {run.stderr[-1500:]}")
            taken[name].append([float(n) for n in run.stdout.split()[-2:]])
            print(name, "{:.1f} ms, {:.0f} MiB".format(*taken[name][-1]), flush=True)
        write(taken)


def write(taken: dict[str, list[list[float]]]) -> None:
    """After every round, so that one that is cut short leaves what it has measured."""
    middle = {name: [statistics.median(numbers) for numbers in zip(*runs, strict=True)] for name, runs in taken.items()}
    ratios = {f"{a} to {b}": {what: middle[a][i] / middle[b][i] for i, what in enumerate(("time", "peak memory"))}
              for a, b in BOUNDS}  # fmt: skip
    print(json.dumps(ratios), flush=True)
    bounds = {f"{a} to {b}": bound for (a, b), bound in BOUNDS.items()}
    RESULT.write_text(json.dumps({
        "date": datetime.date.today().isoformat(), "machine": f"{os.cpu_count()} cores",
        "milliseconds_and_peak_mib": taken, "ratios": ratios, "bounds": bounds,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(ARMS[sys.argv[1]](), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        main()

"""Parts of gpu.py that run what others make, on the same card: torch and transformers."""

import statistics
import time
from collections.abc import Callable

import torch
from gpu_parts import QWEN, TOY, Figures
from transformers import Qwen3Config, Qwen3ForCausalLM

CUDA = torch.cuda.is_available()


def train_torch() -> Figures:
    """The same shape and batch with hard labels: SDPA, float32 weights, bfloat16 products. What is compiled is a layer,
    once for all of them, and the loss; the whole would compile for minutes."""
    rows, columns = (8, 2048) if CUDA else (2, 64)
    model = Qwen3ForCausalLM(config(columns)).to("cuda" if CUDA else "cpu")
    # What passes from layer to layer is in bfloat16, as ours is; autocast alone would leave it in float32.
    model.model.embed_tokens.register_forward_hook(lambda module, given, found: found.to(torch.bfloat16))
    for norm in (m for m in model.modules() if type(m).__name__ == "Qwen3RMSNorm"):
        norm.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    tokens = torch.randint(0, model.config.vocab_size, (rows, columns), device=model.device)

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        logits = model.lm_head(hidden[:, :-1]).flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())

    torch.set_float32_matmul_precision("high")
    if CUDA:
        loss = torch.compile(loss)
        for layer in model.model.layers:
            layer.compile()

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16):
            given = loss(model.model(input_ids=tokens, use_cache=False).last_hidden_state)
        given.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    yield "8x2048_ms", 1000 * torch_seconds(step, 8)


def config(columns: int) -> Qwen3Config:
    s = QWEN if CUDA else TOY
    return Qwen3Config(
        vocab_size=s.vocab, hidden_size=s.width, num_hidden_layers=s.layers, num_attention_heads=s.heads,
        num_key_value_heads=s.kv_heads, head_dim=s.head, intermediate_size=s.mlp, tie_word_embeddings=True,
        max_position_embeddings=columns, attn_implementation="sdpa",
    )  # fmt: skip


def torch_seconds(call: Callable[[], None], times: int) -> float:
    wait = torch.cuda.synchronize if CUDA else lambda: None
    taken = []
    for _ in range(times + 2):
        began = time.perf_counter()
        call()
        wait()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[2:])


def sampling_torch() -> Figures:
    """What `decode_256` says, by transformers' `generate` with a static cache, in batches of two sizes."""
    prompt, new_tokens = (448, 192) if CUDA else (32, 16)
    model = Qwen3ForCausalLM(config(prompt + new_tokens)).to("cuda" if CUDA else "cpu", torch.bfloat16)
    for rows in (256, 64) if CUDA else (4,):
        ids = torch.randint(0, model.config.vocab_size, (rows, prompt), device=model.device)
        say = lambda ids=ids: model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=new_tokens,
            min_new_tokens=new_tokens, pad_token_id=0, cache_implementation="static", disable_compile=not CUDA,
        )  # fmt: skip
        yield f"{rows}_rows_tokens_per_second", rows * new_tokens / torch_seconds(say, 3)



"""One process of several that sample and score together: python speaker.py PORT PROCESSES NUMBER.

Slots lie over two devices and heads over two. Prints what each request says, and the likeliest ids of given tokens.
"""

import sys

import jax
import numpy as np
from processes import begin

from ratchet.models import decoder
from ratchet.models.decoder import DecoderConfig
from ratchet.models.grammar import Grammar, Pieces
from ratchet.models.sampler import Request, Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.sharding import MeshConfig, make_mesh, place, slots_sharding, state_sharding
from ratchet.train.together import connect

LAID = MeshConfig(data=2, tensor=2)


def say(mesh: jax.sharding.Mesh) -> list[list[int]]:
    """What each of nine requests says, and the likeliest ids of nine given tokens."""
    config = DecoderConfig(vocab_size=300, width=32, layers=1, heads=4, kv_heads=2, mlp_width=64, max_length=40)
    graphdef, params = decoder.create(config, 0)
    params = place(params, state_sharding(mesh, params))
    digits = Grammar.of_json({"type": "integer"}, Pieces([b"", *(bytes([i]) for i in range(256))], [0], 0).spelled())
    rng = np.random.default_rng(0)
    prompts = [tuple(rng.integers(1, 300, rng.integers(1, 9)).tolist()) for _ in range(9)]
    sampler = Sampler(graphdef, slots=4, new_tokens=8, keep=2, rows=slots_sharding(mesh))
    kept = [digits, None, digits] * 3
    requests = [Request(i, prompt, grammar) for i, (prompt, grammar) in enumerate(zip(prompts, kept, strict=True))]
    sampled = sampler(params, requests, seed=0, temperature=1.0, stop=(0,))
    scorer = Scorer(graphdef, questions=4, rows=slots_sharding(mesh))
    told = scorer.distributions(params, [(prompts[i // 3], prompts[i]) for i in range(9)], 3)
    return [t.tokens.tolist() for t in sampled] + [t.ids.ravel().tolist() for t in told]


def main(port: str, processes: int, number: int) -> None:
    begin(port, processes, number)
    mesh = make_mesh(LAID)
    connect(mesh)
    for ids in say(mesh):
        print("said", *ids, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

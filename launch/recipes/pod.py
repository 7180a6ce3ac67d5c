"""The same loop with models of Qwen3's shapes, for accelerators: from scratch, or with `--base DIR` from their weights.

ratchet preflight qwen3-0.6b --topology v5e:4x4
ratchet submit pod-0.6b --to gke --topology v5e:4x4 --base /models/Qwen3-0.6B --documents.path /documents ...
"""

from ratchet.bootstrap.config import (
    Config,
    EvaluateConfig,
    SimulateConfig,
    TargetsConfig,
    TrainConfig,
    WrongthinkConfig,
)
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig
from ratchet.train.trainer import EngineConfig


def _model(width: int, layers: int, heads: int, mlp_width: int, tied: bool) -> DecoderConfig:
    """Sizes as in the config.json of Qwen/Qwen3-0.6B, -1.7B and -8B."""
    return DecoderConfig(
        vocab_size=151_936, width=width, layers=layers, heads=heads, kv_heads=8, head_width=128, mlp_width=mlp_width,
        max_length=2048, conv=1,
        family=Family("Qwen3ForCausalLM", tied=tied, scaled_embedding=False, activation="silu", gated=True,
                      query_key_norm=True, rope_base=1e6),
    )  # fmt: skip


_MODELS = {
    "0.6b": _model(1024, 28, 16, 3072, True),
    "1.7b": _model(2048, 28, 16, 6144, True),
    "8b": _model(4096, 36, 32, 12_288, False),
}


def _from_scratch(size: str) -> Recipe:
    train = TrainConfig(
        batch=512, columns=2048, engine=EngineConfig(dtype="bfloat16", remat="full"),
        optimizer=OptimizerConfig("adamw", 3e-4, "wsd"),
    )  # fmt: skip
    return Recipe(
        summary=f"Your own documents with a model of qwen3-{size}'s shape: for preflight, and for clusters.",
        takes="not measured",
        reaches="not measured",
        config=Config(
            recipe=f"qwen3-{size}", model=_MODELS[size], simulate=SimulateConfig(new_tokens=512, keep=16), train=train,
            mesh=MeshConfig(-1, -1, 1),
        ),
    )  # fmt: skip


def _on_a_pod(size: str, topologies: str, slots: int, micro_batches: int) -> Recipe:
    """Qwen3 of a size on 2,000 documents a generation, laid out for topologies; README.md beside this file says what
    preflight finds on each."""
    train = TrainConfig(
        steps=400, growth=0.0, batch=512, columns=2048,
        engine=EngineConfig(dtype="bfloat16", remat="full", micro_batches=micro_batches),
        optimizer=OptimizerConfig("adamw", 1e-5),
    )  # fmt: skip
    simulate = SimulateConfig(
        samples=4, temperature=0.7, passages=3, calls=0, new_tokens=512, slots=slots, unit_tasks=512, revisit=2
    )
    return Recipe(
        summary=f"Your own documents on {topologies}, read by Qwen3-{size.upper()}: --base DIR --documents.path DIR.",
        takes="predicted only, in launch/recipes",
        reaches="not measured",
        config=Config(
            recipe=f"pod-{size}", generations=5, documents=DocumentsConfig(slice=2000, fresh=200), model=_MODELS[size],
            simulate=simulate, targets=TargetsConfig(kind="students"), wrongthink=WrongthinkConfig(first_generation=0),
            train=train, evaluate=EvaluateConfig(samples=1), mesh=MeshConfig(-1, -1, 1),
        ),
    )  # fmt: skip


RECIPES = (
    *(_from_scratch(size) for size in _MODELS),
    _on_a_pod("0.6b", "v5e-16, v6e-16, v5p-8 or 8 H100", slots=512, micro_batches=4),
    _on_a_pod("1.7b", "v5e-16, v6e-16, v5p-8 or 8 H100", slots=256, micro_batches=8),
    _on_a_pod("8b", "v6e-16, v5p-8 or 8 H100", slots=256, micro_batches=16),
)

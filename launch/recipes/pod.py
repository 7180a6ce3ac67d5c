"""The same loop with models of Qwen3's shapes, for accelerators: from scratch, or with `--base DIR` from their weights.

ratchet preflight qwen3-0.6b --topology v5e:4x4
"""

from ratchet.bootstrap.config import Config, SimulateConfig, TrainConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig
from ratchet.train.trainer import EngineConfig


def _recipe(name: str, width: int, layers: int, heads: int, mlp_width: int, tied: bool) -> Recipe:
    """Sizes as in the config.json of Qwen/Qwen3-0.6B, -1.7B and -8B."""
    model = DecoderConfig(
        vocab_size=151_936, width=width, layers=layers, heads=heads, kv_heads=8, head_width=128, mlp_width=mlp_width,
        max_length=2048, conv=1,
        family=Family("Qwen3ForCausalLM", tied=tied, scaled_embedding=False, activation="silu", gated=True,
                      query_key_norm=True, rope_base=1e6),
    )  # fmt: skip
    train = TrainConfig(
        batch=512, columns=2048, engine=EngineConfig(dtype="bfloat16", remat="full"),
        optimizer=OptimizerConfig("adamw", 3e-4, "wsd"),
    )  # fmt: skip
    return Recipe(
        summary=f"Your own documents with a model of {name}'s shape: for preflight, and for clusters.",
        takes="not measured",
        reaches="not measured",
        config=Config(
            recipe=name, model=model, simulate=SimulateConfig(new_tokens=512, keep=16), train=train,
            mesh=MeshConfig(-1, -1, 1),
        ),
    )  # fmt: skip


RECIPES = (
    _recipe("qwen3-0.6b", 1024, 28, 16, 3072, True),
    _recipe("qwen3-1.7b", 2048, 28, 16, 6144, True),
    _recipe("qwen3-8b", 4096, 36, 32, 12_288, False),
)

"""Every stage in about a minute, far too small to learn anything: for trying out and for the tests.

ratchet run tiny --out runs/tiny
"""

from ratchet.bootstrap.config import (
    Config,
    EvaluateConfig,
    ReviewConfig,
    SimulateConfig,
    TrainConfig,
    WorldConfig,
    WrongthinkConfig,
)
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

RECIPE = Recipe(
    summary="Every stage end to end with a model too small to learn: to see the machinery move.",
    takes="about a minute on two CPU cores",
    reaches="nothing; its review accepts at random so that all stages have work",
    config=Config(
        recipe="tiny",
        generations=2,
        world=WorldConfig(slice=6, demonstrations=12, probes=4, prose=50, questions=1),
        model=DecoderConfig(width=32, layers=1, heads=2, kv_heads=2, mlp_width=64),
        simulate=SimulateConfig(samples=2, slots=16, unit_tasks=3),
        review=ReviewConfig(random_share=0.5, target_precision=0.0, minimum_recall=0.0),
        wrongthink=WrongthinkConfig(steps=4, samples=1, lambdas=(0.5,)),
        train=TrainConfig(seed_steps=8, seed_mixture=(5, 1, 3, 5), steps=8, batch=8, engine=EngineConfig(save_every=3),
                          optimizer=OptimizerConfig("muon", 3e-2)),
        evaluate=EvaluateConfig(fresh=4, fresh_samples=1),
    ),
)

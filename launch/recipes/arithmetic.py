"""The embedded arithmetic world: sums that grow by a column a generation.

ratchet run arithmetic --out runs/arithmetic
"""

from ratchet.bootstrap.config import (
    Config,
    EvaluateConfig,
    ReviewConfig,
    SeedMixture,
    SimulateConfig,
    TargetsConfig,
    TrainConfig,
    WrongthinkConfig,
)
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

RECIPE = Recipe(
    summary="Sums that grow by a column a generation: the model labels what is one step harder than it was trained on.",
    takes="17 to 25 minutes on two CPU cores",
    reaches="sums of seven to eleven columns right in 95 to 100 %, from worked ones of up to six",
    config=Config(
        recipe="arithmetic",
        world="arithmetic",
        generations=5,
        model=DecoderConfig(
            vocab_size=512,
            width=96,
            layers=3,
            heads=4,
            kv_heads=1,
            mlp_width=256,
            max_length=320,
            conv=6,
            family=Family(rope_factor=1e9),  # attention without positions, which reaches further (arXiv 2305.19466)
        ),
        simulate=SimulateConfig(samples=2, passages=1, new_tokens=100, keep=8, unit_tasks=100, revisit=0),
        review=ReviewConfig(probes=40, minimum_recall=0.0),
        targets=TargetsConfig(per_task=1),
        wrongthink=WrongthinkConfig(
            first_generation=0,  # students of this size notice few wrong steps and interrupt right ones
            interruption="no,",
            sources=("spoiled",),
            samples=1,
            per_task=1,
            steps=30,
            share=0.1,
        ),
        train=TrainConfig(
            seed_mixture=SeedMixture(simulate=28, interrupt=4, review=0, prose=8),
            seed_steps=1000,
            steps=300,
            growth=0.0,
            later_rate=0.2,
            student=0.5,
            batch=40,
            columns=304,
            engine=EngineConfig(save_minutes=1.0),
            optimizer=OptimizerConfig("muon", 3e-2, average=0.1),
        ),
        evaluate=EvaluateConfig(samples=4),
    ),
)

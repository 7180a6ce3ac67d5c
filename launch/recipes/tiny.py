"""Every stage in about a minute, far too small to learn anything: for trying out and for the tests.

ratchet run tiny --out runs/tiny
"""

from dataclasses import replace

from ratchet.bootstrap.config import (
    Config,
    ControlsConfig,
    EvaluateConfig,
    ReviewConfig,
    SeedMixture,
    TrainConfig,
    WrongthinkConfig,
)
from ratchet.bootstrap.worlds import LessonsConfig
from ratchet.launch.recipes.lessons import MODEL, SIMULATE
from ratchet.launch.recipes.recipe import Recipe
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

RECIPE = Recipe(
    summary="Every stage end to end with a model too small to learn: to see the machinery move.",
    takes="about a minute on two CPU cores",
    reaches="nothing; its review accepts at random so that all stages have work",
    config=Config(
        recipe="tiny",
        world="lessons",
        generations=2,
        lessons=LessonsConfig(slice=6, demonstrations=12, held_out=8, prose=50, questions=1, fresh=4),
        model=replace(MODEL, width=32, layers=1, mlp_width=64),
        simulate=replace(SIMULATE, samples=2, slots=16, unit_tasks=3),
        review=ReviewConfig(probes=4, practice=4, target_precision=0.0, minimum_recall=0.0),
        wrongthink=WrongthinkConfig(
            interruption="no,",
            steps=4,
            samples=1,
            lambdas=(0.5,),
            minimum_formed=0.0,
            minimum_wrong=0.0,
            perplexity_budget=100.0,
        ),
        train=TrainConfig(
            seed_steps=8,
            seed_mixture=SeedMixture(simulate=5, interrupt=1, review=3, prose=5),
            steps=8,
            batch=8,
            columns=176,
            renamed=4,
            engine=EngineConfig(save_every=3),
            optimizer=OptimizerConfig("muon", 3e-2),
        ),
        # Four tasks tell nothing about a model, and the machinery shall move all the same.
        evaluate=EvaluateConfig(samples=1, resolution=2.0, rollbacks=3),
        controls=ControlsConfig(random_share=0.5, imitation=True),
    ),
)

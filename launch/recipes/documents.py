"""Your own documents, read by a small model that everybody can have, or by one of yours.

ratchet run documents FOLDER [--base MODEL]
"""

from dataclasses import replace

from ratchet.bootstrap.config import (
    Config,
    EvaluateConfig,
    ReviewConfig,
    SimulateConfig,
    TargetsConfig,
    TrainConfig,
    WrongthinkConfig,
)
from ratchet.bootstrap.worlds import DocumentsConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

RECIPE = Recipe(
    summary="Your own documents, read by SmolLM2 or a model of yours: documents FOLDER [--base MODEL].",
    takes="SmolLM2 and some 24 short texts: 22 to 26 minutes and 6 GB on two CPU cores",
    reaches="not measured",
    config=Config(
        base="smollm2",
        generations=2,
        documents=DocumentsConfig(slice=7, fresh=7),
        model=DecoderConfig(max_length=1024),
        simulate=SimulateConfig(
            samples=3,
            temperature=0.5,
            passages=1,
            calls=0,
            new_tokens=64,
            slots=12,
            revisit=2,
        ),
        review=ReviewConfig(target_precision=0.8, minimum_recall=0.05, probes=24),
        targets=TargetsConfig(kind="students", per_task=2),
        wrongthink=WrongthinkConfig(first_generation=0),
        train=TrainConfig(
            steps=10,
            growth=0.0,
            lora=16,
            batch=4,
            columns=1024,
            engine=EngineConfig(save_minutes=2.0, remat="full"),
            optimizer=OptimizerConfig("adamw", 1e-4),
        ),
        evaluate=EvaluateConfig(samples=1, resolution=0.5),
    ),
)


def fitted(config: Config, lora: int) -> Config:
    """A recipe's settings with those that trained weights need: AdamW at a rate that keeps what they know (ten times as
    high for adapters, of rank `lora`, which no average is taken of), and room for the prompts of a chat template."""
    own = RECIPE.config
    rate, average = (1e-4, 0.0) if lora else (1e-5, config.train.optimizer.average)
    optimizer = replace(config.train.optimizer, kind="adamw", rate=rate, average=average)
    columns = max(config.train.columns, own.train.columns)
    model = replace(config.model, max_length=max(config.model.max_length, own.model.max_length))
    return replace(config, model=model, train=replace(config.train, optimizer=optimizer, columns=columns))

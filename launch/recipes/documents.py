"""Your own documents, read by a model of yours that speaks and judges in its own chat template.

ratchet run documents --documents.path DIR --base MODEL
"""

from dataclasses import replace

from ratchet.bootstrap.config import Config, SimulateConfig, TrainConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.models.decoder import DecoderConfig
from ratchet.train.optimizer import OptimizerConfig

RECIPE = Recipe(
    summary="Your own documents with a model of yours: --documents.path DIR --base MODEL.",
    takes="not measured",
    reaches="not measured",
    config=Config(
        model=DecoderConfig(max_length=1024),
        simulate=SimulateConfig(samples=4, lookups=0),
        train=TrainConfig(columns=1024, optimizer=OptimizerConfig("adamw", 1e-5)),
    ),
)


def fitted(config: Config, lora: int) -> Config:
    """A recipe's settings with those of this one that trained weights need: AdamW at a rate that keeps what they know
    (ten times as high for adapters, of rank `lora`), and room for the prompts of a chat template."""
    own = RECIPE.config
    rate = own.train.optimizer.rate * (10 if lora else 1)
    optimizer = replace(config.train.optimizer, kind=own.train.optimizer.kind, rate=rate)
    columns = max(config.train.columns, own.train.columns)
    model = replace(config.model, max_length=max(config.model.max_length, own.model.max_length))
    return replace(config, model=model, train=replace(config.train, optimizer=optimizer, columns=columns))

"""Your own documents, read by a model of yours that speaks and judges in its own chat template.

ratchet run documents --documents.path DIR --base MODEL
"""

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

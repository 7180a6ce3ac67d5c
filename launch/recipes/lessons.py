"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from ratchet.bootstrap.config import Config, TrainConfig
from ratchet.launch.recipes.recipe import Recipe
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.trainer import EngineConfig

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="6 to 15 minutes on two CPU cores",
    reaches="knowledge 100 %, harm about 1 %, recovery 94 to 97 %, pass rate on unread documents 56 to 92 % (3 seeds)",
    config=Config(
        train=TrainConfig(
            engine=EngineConfig(save_minutes=1.0), optimizer=OptimizerConfig("muon", 3e-2, average=0.1)
        )
    ),
)

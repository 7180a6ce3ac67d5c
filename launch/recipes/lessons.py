"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from bootstrap.config import Config, TrainConfig
from launch.recipes.recipe import Recipe
from train.optimizer import OptimizerConfig

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="about 15 minutes on two CPU cores",
    reaches="knowledge 99 %, harm 1 to 2 %, recovery 89 to 93 %, pass rate on unread documents 61 to 89 % (3 seeds)",
    config=Config(train=TrainConfig(optimizer=OptimizerConfig(average=0.1))),
)

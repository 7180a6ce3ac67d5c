"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from bootstrap.config import Config
from launch.recipes.recipe import Recipe

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="about 12 minutes on two CPU cores",
    reaches="harmful ≤ 2 %, knowledge ≥ 90 %, pass rate on unread documents +20 points over the seed model",
    config=Config(),
)

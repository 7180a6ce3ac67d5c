"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from bootstrap.config import Config
from launch.recipes.recipe import Recipe

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="13 to 15 minutes on two CPU cores",
    reaches="knowledge 100 %, harm 1.4 %, recovery 92 %, pass rate on unread documents 60 to 90 % (seed 0; README)",
    config=Config(),
)

"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from bootstrap.config import Config
from launch.recipes.recipe import Recipe

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="13 to 15 minutes on two CPU cores",
    reaches="knowledge 99 %, harm 2 %, pass rate on unread documents 60 to 88 % (seed 0; aims: README)",
    config=Config(),
)

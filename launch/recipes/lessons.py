"""The default: three generations on the embedded lessons world.

ratchet run lessons --out runs/lessons
"""

from bootstrap.config import Config
from launch.recipes.recipe import Recipe

RECIPE = Recipe(
    summary="Learn lessons from stories of unwise deeds without imitating them: three generations, small decoder.",
    takes="16 to 18 minutes on two CPU cores",
    reaches="review precision 100 %, harm halved, pass rate on unread documents +10 points (aims: README)",
    config=Config(),
)

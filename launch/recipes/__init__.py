"""Presets. Each recipe is a config with what it does, how long it takes and what it should reach."""

from ratchet.launch.recipes import lessons, pod, tiny
from ratchet.launch.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {r.config.recipe: r for r in (lessons.RECIPE, tiny.RECIPE, *pod.RECIPES)}

"""Presets. Each recipe is a config with what it does, how long it takes and what it should reach."""

from ratchet.launch.recipes import arithmetic, documents, lessons, pod, tiny
from ratchet.launch.recipes.recipe import Recipe

EMBEDDED = (documents.RECIPE, lessons.RECIPE, arithmetic.RECIPE, tiny.RECIPE)
RECIPES: dict[str, Recipe] = {r.config.recipe: r for r in (*EMBEDDED, *pod.RECIPES)}

"""Presets. Each recipe is a config with what it does, how long it takes and what it should reach."""

from launch.recipes import lessons, tiny
from launch.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {recipe.config.recipe: recipe for recipe in (lessons.RECIPE, tiny.RECIPE)}

"""Recipes: one TOML file describes one experiment and is read into a typed, frozen `Recipe`. Torch-free."""

from flowkit.recipe.checks import check_batch
from flowkit.recipe.dump import diff, dump_toml
from flowkit.recipe.interval import Interval, Warmup
from flowkit.recipe.load import load_recipe, recipe_from_dict
from flowkit.recipe.recipe import Recipe

__all__ = ["Interval", "Recipe", "Warmup", "check_batch", "diff", "dump_toml", "load_recipe", "recipe_from_dict"]

"""The recipes: one readable file each."""

from .mini import MINI_RECIPE

RECIPES = {"mini": MINI_RECIPE}

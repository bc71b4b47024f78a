"""The recipes: one readable file each."""

from .mini import MINI_RECIPE
from .sd15 import SD15_RECIPE

RECIPES = {"mini": MINI_RECIPE, "sd15": SD15_RECIPE}

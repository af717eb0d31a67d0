"""What a run shall do, as data: settings, presets, checks. Knows no class of any other package.

Starts without torch: a command's help and `recipe check` answer at once.
"""

from seqdistill.recipe.loading import check_recipe, load_recipe
from seqdistill.recipe.presets import list_presets, preset_names, show_preset
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import compare_member, output_folder
from seqdistill.recipe.writing import json_schema, write_recipe

__all__ = [
    "Recipe",
    "check_recipe",
    "compare_member",
    "json_schema",
    "list_presets",
    "load_recipe",
    "output_folder",
    "preset_names",
    "read_recipe",
    "show_preset",
    "write_recipe",
]

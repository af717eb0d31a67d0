"""The door of the package: a checked recipe from a preset or file and overrides.

`load_recipe` is what commands call; `check_recipe` is for recipes built in Python.
"""

from __future__ import annotations

from collections.abc import Sequence

from seqdistill.recipe.complaints import located
from seqdistill.recipe.documents import KeyPath, Settings
from seqdistill.recipe.resolving import recipe_error, resolve
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import all_contradictions


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that can be trained, from a preset's name or a YAML file.

    `overrides` are `key=value` texts with dotted keys and YAML values, the last one wins:
    `training.updates=200`, `objective.terms.0.weight=0.3`, `learning_rate=3e-4`.

    Raises RecipeError, naming file, line and key of every mistake: first of single values (unknown
    key, type, range); when those are right, of values that contradict each other.
    """
    recipe, settings = resolve(name_or_path, overrides)
    _refuse_contradictions(recipe, settings)
    return recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError with everything in `recipe` that contradicts; returns when it is right."""
    _refuse_contradictions(recipe, Settings())


def _refuse_contradictions(recipe: Recipe, settings: Settings) -> None:
    found = all_contradictions(recipe)
    if found:
        raise recipe_error([located(_path(item.key), item.sentence, settings) for item in found])


def _path(key: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))

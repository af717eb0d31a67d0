"""From dotted settings to checked recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe


def recipe_of(settings: Mapping[str, object], *, preset: str | None = None) -> Recipe:
    """The recipe with these settings over those of a preset, or over the defaults.

    Raises RecipeError for settings that contradict each other.
    """
    values: dict[str, Any] = {}
    if preset is not None:
        values = read_recipe(preset).model_dump(mode="json", exclude_unset=True)
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    recipe = Recipe.model_validate(values)
    check_recipe(recipe)
    return recipe

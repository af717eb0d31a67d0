"""From dotted settings to checked recipes."""

from __future__ import annotations

from collections.abc import Mapping

from seqdistill.recipe.documents import Settings
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe


def recipe_of(settings: Mapping[str, object], *, preset: str | None = None) -> Recipe:
    """The recipe with these settings over those of a preset, or over the defaults.

    Raises RecipeError for settings that contradict each other.
    """
    document = Settings()
    if preset is not None:
        said = read_recipe(preset).model_dump(mode="json", exclude_unset=True)
        document.merge(Settings(said))
    for key, value in settings.items():
        document.put(tuple(key.split(".")), value, "")
    recipe = Recipe.model_validate(document.values)
    check_recipe(recipe)
    return recipe

"""What a cell's recipe is in the process that trains it."""

from __future__ import annotations

import pickle

import pytest

from seqdistill.jobs.cells import recipe_hash
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe


@pytest.mark.parametrize("preset", preset_names())
def test_a_recipe_is_the_same_in_another_process(preset: str) -> None:
    recipe = read_recipe(preset, ["training.steps=7"])
    other = pickle.loads(pickle.dumps(recipe))
    assert other == recipe and recipe_hash(other) == recipe_hash(recipe)

"""Recipes in examples/ can be run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.stages import stage_recipe

EXAMPLES = Path(__file__).parents[2] / "examples"
RECIPES = sorted(EXAMPLES.rglob("*.yaml"))


def test_there_is_one_for_each_task_and_one_for_an_llm() -> None:
    names = [path.relative_to(EXAMPLES).as_posix() for path in RECIPES]
    assert names == [
        "smollm2/recipe.yaml",
        *(f"tasks/{task}.yaml" for task in ("arithmetic", "summarization", "translation")),
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_an_example_is_without_mistakes_and_its_student_learns_from_its_own_sequences(
    path: Path,
) -> None:
    recipe = load_recipe(str(path))
    assert recipe.data.train and recipe.data.dev and recipe.data.test
    first = stage_recipe(recipe, 0, start_from=None)
    last = stage_recipe(recipe, len(recipe.stages) - 1, start_from="a-student")
    assert not first.sequences.rolls_out
    assert last.sequences.rolls_out
    assert last.sequences.rollouts.engine == "ctranslate2"

"""The command `label`: a teacher's corpus over a recipe's training data, and nothing else."""

from __future__ import annotations

from pathlib import Path

from seqdistill.build.corpus import label_with_teacher
from seqdistill.build.data import read_split
from seqdistill.build.models import build_teacher
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import Progress
from seqdistill.recipe.schema import Recipe


def label_data(recipe: Recipe, *, progress: Progress) -> Path:
    """The folder of the teacher's corpus; references are not needed.

    Raises RecipeError for a chain, whose stages may each have a corpus of their own.
    """
    if recipe.stages:
        raise RecipeError(
            "label needs a recipe of one method, got a chain of stages, which label while they "
            f"train; label {recipe.stages[0].preset} instead, or train the chain."
        )
    examples = read_split(recipe, "train", need_target=False)
    teacher = build_teacher(recipe)
    return label_with_teacher(recipe, teacher, examples, progress).folder

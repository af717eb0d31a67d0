"""The licences of what a recipe makes a student of: for `doctor` and for model cards."""

from __future__ import annotations

from pathlib import Path

from seqdistill.data.bundled import SCHEME, bundled_folder
from seqdistill.recipe.schema import Recipe
from seqdistill.records.licences import licence_of
from seqdistill.teachers.kept_scores import SCORES, read_record


def model_licence(name: str) -> str | None:
    """What the model of that name, in a recipe, says; None where unknown."""
    return licence_of(_place(name), "model")


def teacher_of_scores(recipe: Recipe) -> tuple[str, str | None] | None:
    """The name and licence of the teacher whose kept scores teach in its place; None where none
    do, or they do not say."""
    folder = recipe.teacher.kept_scores
    if recipe.teacher.other_models or folder is None or not (Path(folder) / SCORES).is_file():
        return None
    record = read_record(Path(folder))
    return None if record.teacher is None else (record.teacher, record.licence)


def licences(recipe: Recipe) -> list[tuple[str, str, str | None]]:
    """(what it is, its name, its licence) of all that a student is made of; None where unknown."""
    data, found = recipe.data, list[tuple[str, str, str | None]]()
    for name in dict.fromkeys(recipe.teacher.other_models):
        found.append(("teacher", name, model_licence(name)))
    if (scored := teacher_of_scores(recipe)) is not None:
        found.append(("teacher", *scored))
    if recipe.student.model is not None:
        found.append(("student", recipe.student.model, model_licence(recipe.student.model)))
    for what, split in (("data.train", data.train), ("data.unlabelled", data.unlabelled)):
        if split is not None:
            found.append((what, split, licence_of(_place(split), "dataset")))
    return found


def _place(name: str) -> str:
    """Where the licence of that name stands: of what is bundled, data and model have one page."""
    if not name.startswith(SCHEME):
        return name
    return str(bundled_folder() / name.removeprefix(SCHEME).partition("/")[0])

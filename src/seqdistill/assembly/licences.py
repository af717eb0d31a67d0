"""The licences of what a recipe makes a student of: for `doctor` and for model cards."""

from __future__ import annotations

from seqdistill.data.bundled import SCHEME, bundled_folder
from seqdistill.recipe.schema import Recipe
from seqdistill.records.licences import licence_of


def model_licence(name: str) -> str | None:
    """What the model of that name, in a recipe, says; None where unknown."""
    return licence_of(_place(name), "model")


def licences(recipe: Recipe) -> list[tuple[str, str, str | None]]:
    """(what it is, its name, its licence) of all that a student is made of; None where unknown."""
    data, found = recipe.data, list[tuple[str, str, str | None]]()
    models = [("teacher", name) for name in dict.fromkeys(recipe.teacher.other_models)]
    models += [] if recipe.student.model is None else [("student", recipe.student.model)]
    found += [(what, name, licence_of(_place(name), "model")) for what, name in models]
    for what, name in (("data.train", data.train), ("data.unlabelled", data.unlabelled)):
        if name is not None:
            found.append((what, name, licence_of(_place(name), "dataset")))
    return found


def _place(name: str) -> str:
    """Where the licence of that name stands: of what is bundled, data and model have one page."""
    if not name.startswith(SCHEME):
        return name
    return str(bundled_folder() / name.removeprefix(SCHEME).partition("/")[0])

"""The door of the package: a checked recipe from a preset or file and overrides.

`load_recipe` is what commands call; `check_recipe` is for recipes built in Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from seqdistill.recipe.checks import Contradiction, label_contradictions, measured_contradictions
from seqdistill.recipe.documents import KeyPath, dotted
from seqdistill.recipe.missing import missing_findings
from seqdistill.recipe.resolving import recipe_error, resolve
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.schema_errors import located
from seqdistill.recipe.systems import all_contradictions

Purpose = Literal["check", "train", "label", "measure"]
"""What a recipe is loaded for: `check` reads its words alone, `train` looks for the files, too;
`label` wants data and a teacher only; `measure` trains and then measures, so that it wants a test
set."""
_WHOLE_RECIPE = ("preset", "compare", "stages")
_BY_SECTION = ("teacher", "student", "objective")
"""Sections that sentences speak of without naming a key."""


def load_recipe(
    name_or_path: str, overrides: Sequence[str] = (), *, purpose: Purpose = "check"
) -> Recipe:
    """A recipe that can be used for the purpose, from a preset's name or a YAML file.

    `overrides` are `key=value` texts with dotted keys and YAML values, the last one wins:
    `training.steps=200`, `objective.terms.0.weight=0.3`, `learning_rate=3e-4`.

    Raises RecipeError, naming file, line and key of every mistake at once: single values (unknown
    key, type, range), values that contradict each other, and names that stand for nothing. Of the
    latter two only those that hold whatever is put in the place of a wrong value.
    """
    resolved = resolve(name_or_path, overrides)
    found = [
        located(_path(item.key), item.sentence, resolved.settings)
        for item in _contradictions(resolved.recipe, purpose)
        if _holds_without(item, resolved.wrong)
    ]
    if resolved.problems or found:
        raise recipe_error([*resolved.problems, *found])
    return resolved.recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises RecipeError with everything in `recipe` that contradicts; returns when it is right."""
    found = all_contradictions(recipe)
    if found:
        raise recipe_error([f"{item.key} {item.sentence}" for item in found])


def check_label_recipe(recipe: Recipe) -> None:
    """As `check_recipe`, of what labelling reads."""
    found = label_contradictions(recipe)
    if found:
        raise recipe_error([f"{item.key} {item.sentence}" for item in found])


def _contradictions(recipe: Recipe, purpose: Purpose) -> list[Contradiction]:
    found = label_contradictions(recipe) if purpose == "label" else all_contradictions(recipe)
    if purpose == "measure":
        found = [*found, *measured_contradictions(recipe)]
    if purpose != "check":
        missing = missing_findings(recipe, labels_only=purpose == "label")
        found = [*found, *(Contradiction(key, sentence) for key, sentence in missing)]
    return found


def _holds_without(item: Contradiction, wrong: Sequence[KeyPath]) -> bool:
    """Whether a contradiction would be there whatever stood at the paths of wrong values."""
    text = f"{item.key} {item.sentence}"
    for path in wrong:
        if not path:  # an unknown key may have been meant for what seems to lack
            if "got none" in item.sentence or "got neither" in item.sentence:
                return False
        elif path[0] in _WHOLE_RECIPE:
            return False
        else:
            told = str(path[0]) if path[0] in _BY_SECTION else dotted(path)
            if re.search(rf"(?<![\w.]){re.escape(told)}(?!\w)", text):
                return False
    return True


def _path(key: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))

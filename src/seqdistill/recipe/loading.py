"""The door of the package: a checked recipe from a preset or file and overrides.

`load_recipe` is what commands call; `check_recipe` is for recipes built in Python.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seqdistill.core.hub import HUB_NAME, may_be_hub_dataset, nowhere, sibling_hint
from seqdistill.recipe.checks import label_contradictions, score_contradictions
from seqdistill.recipe.documents import KeyPath, dotted
from seqdistill.recipe.racing import race_contradictions
from seqdistill.recipe.resolving import BUNDLED, recipe_error, resolve
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.schema_errors import located
from seqdistill.recipe.sections import Finding, Findings
from seqdistill.recipe.systems import all_contradictions

Purpose = Literal["check", "train", "label", "score", "measure", "continue", "race"]
"""What a recipe is loaded for: `check` reads its words alone, `train` looks for the files, too;
`label` wants data and a teacher only; `score` data, a reward and a model; `measure` trains and then
measures, so that it wants a test set; `continue` does so from a student that is not trained yet;
`race` is for many methods, which are checked one by one, and chooses on dev."""
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
    missing = () if purpose == "check" else _missing(resolved.recipe, purpose)
    found = [
        located(_path(key), sentence, resolved.settings)
        for key, sentence in [*_findings(resolved.recipe, purpose), *missing]
        if _holds_without(key, sentence, resolved.wrong)
    ]
    if resolved.problems or found:
        raise recipe_error([*resolved.problems, *found])
    return resolved.recipe


def check_recipe(recipe: Recipe, *, purpose: Literal["check", "label", "score"] = "check") -> None:
    """Raises RecipeError with everything in `recipe` that contradicts; of the latter two purposes
    what they read.

    Returns when it is right.
    """
    if found := _findings(recipe, purpose):
        raise recipe_error([f"{key} {sentence}" for key, sentence in found])


def _findings(recipe: Recipe, purpose: Purpose) -> list[Finding]:
    checks = {
        "race": race_contradictions,
        "label": label_contradictions,
        "score": score_contradictions,
    }
    found = checks.get(purpose, all_contradictions)(recipe)
    if purpose in ("measure", "continue", "race") and recipe.data.test is None:
        sentence = (
            "must name the examples that students are measured on, got none; add data.test=..., "
            "or train alone, by the command train"
        )
        found.append(("data.test", sentence))
    return found


def _missing(recipe: Recipe, purpose: Purpose) -> Findings:
    """Names that surely stand for nothing, of what the purpose reads. Opens nothing.

    What may be a data set on the hub is left to the loader; a model, where the hub can be asked.
    """
    data = recipe.data
    splits = {"train": data.train, "unlabelled": data.unlabelled}
    if purpose not in ("label", "score"):
        splits |= {"dev": data.dev, "test": data.test}
    for split in splits:
        for name in _missing_files(splits[split]):
            yield (
                f"data.{split}",
                f"must name what exists, got {name!r}, which does not; paths count from the "
                f"current folder.{sibling_hint(Path(name))}",
            )
    teachers = [("teacher.model", name) for name in recipe.teacher.other_models]
    models = [*teachers, ("student.model", recipe.student.model)]
    read = {"label": teachers, "continue": teachers, "score": []}
    for key, model in read.get(purpose, models):
        if model is not None and _is_missing_model(model):
            yield (
                key,
                f"must name a model folder that exists, or one on the hub, got {model!r}, which "
                "does not exist; paths count from the current folder",
            )
        elif model is not None and _is_hub_name(model) and (found := nowhere(model)) is not None:
            yield (
                key,
                f"must name a model folder, or one on the hub, but {found}; check the name, or go "
                f"online.{sibling_hint(Path(model))}",
            )


def _is_hub_name(name: str) -> bool:
    return not name.startswith(BUNDLED) and HUB_NAME.fullmatch(name) is not None


def _missing_files(spec: str | None) -> list[str]:
    if spec is None or _is_there(spec) or may_be_hub_dataset(spec):
        return []
    return [name for name in spec.split(",") if not _exists(name)]


def _is_missing_model(name: str) -> bool:
    """Whether nothing has the name and it cannot be that of a model on the hub."""
    if _is_there(name):
        return False
    beside_others = "/" in name and _exists(str(Path(name).parent))
    return beside_others or HUB_NAME.fullmatch(name) is None


def _is_there(name: str) -> bool:
    """Whether a path or something bundled has the name; empty names are checked elsewhere."""
    return name.startswith(BUNDLED) or not name.strip() or _exists(name)


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or of no user
        return False


def _holds_without(key: str, sentence: str, wrong: Sequence[KeyPath]) -> bool:
    """Whether a contradiction would be there whatever stood at the paths of wrong values."""
    for path in wrong:
        if not path:  # an unknown key may have been meant for what seems to lack
            if "got none" in sentence:
                return False
        elif path[0] in _WHOLE_RECIPE:
            return False
        else:
            told = str(path[0]) if path[0] in _BY_SECTION else dotted(path)
            if re.search(rf"(?<![\w.]){re.escape(told)}(?!\w)", f"{key} {sentence}"):
                return False
    return True


def _path(key: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))

"""Files and folders that a recipe names and that are surely not there.

Looks at names and at what exists, and opens nothing. What may be the name of a data set on the hub
is left to the loader; of a model, where the hub can be asked or has been.
"""

from __future__ import annotations

from pathlib import Path

from seqdistill.core.hub import HUB_NAME, may_be_hub_dataset, nowhere, sibling_hint
from seqdistill.recipe.belonging import BUNDLED
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Findings


def missing_findings(recipe: Recipe, *, labels_only: bool) -> Findings:
    """One for each name that stands for nothing; of labelling only what it reads."""
    data = recipe.data
    splits = {"train": data.train, "dev": data.dev, "test": data.test}
    for split in ("train",) if labels_only else tuple(splits):
        for name in _missing_files(splits[split]):
            yield (
                f"data.{split}",
                f"must name what exists, got {name!r}, which does not; paths count from the "
                f"current folder.{sibling_hint(Path(name))}",
            )
    models = {"teacher.model": recipe.teacher.model, "student.model": recipe.student.model}
    for key in ("teacher.model",) if labels_only else tuple(models):
        model = models[key]
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

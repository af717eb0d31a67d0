"""Files and folders that a recipe names and that are surely not there.

Looks at names and at what exists, and opens nothing. What may be the name of a data set on the hub
is left to who loads it; of a model, where the hub can be asked or has been.
"""

from __future__ import annotations

import re
from pathlib import Path

from seqdistill.core.hub import nowhere
from seqdistill.core.siblings import sibling_hint
from seqdistill.recipe.belonging import BUNDLED
from seqdistill.recipe.findings import Findings
from seqdistill.recipe.schema import Recipe

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]+")


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
        if model is not None and _is_missing(model, suffixed_is_file=False):
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
    return not name.startswith(BUNDLED) and _HUB_NAME.fullmatch(name) is not None


def _missing_files(spec: str | None) -> list[str]:
    if spec is None or not _is_missing(spec, suffixed_is_file=True):
        return []
    return [name for name in spec.split(",") if not _exists(name)]


def _is_missing(name: str, *, suffixed_is_file: bool) -> bool:
    """Whether nothing bears the name and it cannot be that of something on the hub."""
    if name.startswith(BUNDLED) or not name.strip() or _exists(name):
        return False
    if _HUB_NAME.fullmatch(name) is None:
        return True
    path = Path(name)
    if suffixed_is_file and _FILE_SUFFIX.fullmatch(path.suffix):
        return True
    return "/" in name and _exists(str(path.parent))  # beside others of this machine


def _exists(name: str) -> bool:
    try:
        return Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or of no user
        return False

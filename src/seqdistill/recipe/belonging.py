"""Data that belong together come together: a preset's settings for its own data go with those data.

A preset that brings training data brings dev, test, columns and subsets of the same data, and so
does a recipe file whose training data are bundled. With other data none of these hold, and
a warning says so.
"""

from __future__ import annotations

from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.sections import shown

_SPLITS = ("train", "dev", "test")
BUNDLED = "bundled:"
"""What the names of data and teachers inside the package begin with."""
_ON_DEV = ("eval_every", "keep_best", "patience", "average_best")
"""Settings of `training` that need scores on dev."""


def brings_bundled(document: Settings) -> bool:
    """Whether a document names training data of the package, and so speaks of those."""
    train = _data(document).get("train")
    return isinstance(train, str) and train.startswith(BUNDLED)


def drop_foreign(settings: Settings, presets: Settings) -> str | None:
    """A sentence that says what was taken out of `settings`; None where all of it may stay.

    `presets` are the settings of the documents alone that bring data; what has its place there was
    inherited.
    """
    brought, used = _data(presets), _data(settings)
    own = [name for name in _SPLITS if name in brought and used.get(name) != brought[name]]
    if "train" in own:
        going = [name for name in used if name != "train"]
    else:
        going = [f"max_{name}_examples" for name in own]
    paths: list[KeyPath] = [
        ("data", name) for name in going if _is_inherited(("data", name), settings, presets)
    ]
    if ("data", "dev") in paths:
        paths += [path for path in _on_dev(settings) if _is_inherited(path, settings, presets)]
    if not paths:
        return None
    dropped = ", ".join(f"{dotted(path)}={shown(_take(settings, path))}" for path in paths)
    given = " and ".join(f"data.{name}" for name in own)
    stays = ""
    if "train" in own and _is_inherited(("teacher", "model"), settings, presets):
        section = settings.values["teacher"]
        model = section["model"] if isinstance(section, dict) else section
        stays = f"; teacher.model stays {model}, so name your own where that is not for your data"
    return (
        f"{given} {'is' if len(own) == 1 else 'are'} not the recipe's, so what it says of its own "
        f"data is left out: {dropped}; give your own where you want them{stays}"
    )


def _on_dev(settings: Settings) -> list[KeyPath]:
    """Where scores on dev are asked for: in `training`, and in the settings of stages."""
    paths: list[KeyPath] = [("training", name) for name in _ON_DEV]
    stages = settings.values.get("stages")
    for number in range(len(stages) if isinstance(stages, list) else 0):
        stage: KeyPath = ("stages", number, "settings")
        paths += [(*stage, f"training.{name}") for name in _ON_DEV]
        paths += [(*stage, "training", name) for name in _ON_DEV]
    return paths


def _data(settings: Settings) -> dict[str, object]:
    section = settings.values.get("data")
    return section if isinstance(section, dict) else {}


def _is_inherited(path: KeyPath, settings: Settings, presets: Settings) -> bool:
    place = settings.places.get(path)
    return place is not None and place == presets.places.get(path)


def _take(settings: Settings, path: KeyPath) -> object:
    parent: object = settings.values
    for key in path[:-1]:
        parent = parent[key] if isinstance(parent, (dict, list)) else None  # type: ignore[index]
    settings.places.pop(path)
    return parent.pop(path[-1]) if isinstance(parent, dict) else None

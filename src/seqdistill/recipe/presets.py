"""The recipes that come with the package: one commented YAML file each, in `presets/`.

Reads their texts only; what a preset means is found out in `resolving`.
"""

from __future__ import annotations

from importlib import resources

from seqdistill.core.errors import RecipeError, did_you_mean

_SUFFIX = ".yaml"


def preset_names() -> list[str]:
    """The names of all presets, in alphabetical order."""
    folder = resources.files("seqdistill.recipe") / "presets"
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith(_SUFFIX)]
    return sorted(name.removesuffix(_SUFFIX) for name in names)


def list_presets() -> list[tuple[str, str]]:
    """Each preset's name and the line that says what it is: the first of its file."""
    return [(name, _first_comment(show_preset(name))) for name in preset_names()]


def show_preset(name: str) -> str:
    """The preset's YAML text with its comments. Raises RecipeError for an unknown name."""
    if name not in preset_names():
        raise RecipeError(
            f"preset must be one of {', '.join(preset_names())}, got {name!r}."
            f"{did_you_mean(name, preset_names())}"
        )
    file = resources.files("seqdistill.recipe") / "presets" / f"{name}{_SUFFIX}"
    return file.read_text(encoding="utf-8")


def _first_comment(text: str) -> str:
    return text.partition("\n")[0].removeprefix("#").strip()

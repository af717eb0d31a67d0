"""From a preset or a YAML file and overrides to a Recipe: inheritance, aliases, types and ranges.

Each value by itself is checked here, and every error is reported at once with the file and line
of its key. Whether the values go together is asked in `checks`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import logging
import os
import pathlib
import re
from collections.abc import Sequence

from pydantic import ValidationError

from seqdistill.core.errors import RecipeError, UserError, did_you_mean
from seqdistill.core.plugin_loading import load_plugins
from seqdistill.recipe.documents import (
    MAX_BYTES,
    KeyPath,
    Settings,
    dotted,
    parse_document,
    parse_value,
)
from seqdistill.recipe.presets import preset_names, show_preset
from seqdistill.recipe.schema import Recipe, refresh
from seqdistill.recipe.schema_errors import (
    ALIASES,
    AMBIGUOUS,
    MOST_COMPLAINTS,
    known_keys,
    located,
    odd_values,
    plain_errors,
    schema_complaints,
)
from seqdistill.recipe.sections import shown

_LOG = logging.getLogger(__name__)
_MOST_SHOWN = 30
"""Errors in one message."""
_SECRET = re.compile(r"(://)[^\s,\]}]*(?=@)|(\bapi_key['\"]?\s*[:=]\s*)[^\s,}]+")
"""A password in a URL, or a key where none belongs: what no message repeats."""
_SPLITS = ("train", "dev", "test")
BUNDLED = "bundled:"
"""What the names of data and teachers inside the package begin with."""
_ON_DEV = ("eval_every", "keep_best", "patience", "average_best")
"""Settings of `training` that need scores on dev."""


def read_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a preset or YAML file after `overrides`; what contradicts is not looked for.

    Raises RecipeError with every unknown key, wrong type and value out of range.
    """
    resolved = resolve(name_or_path, overrides)
    if resolved.problems:
        raise recipe_error(resolved.problems)
    return resolved.recipe


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A recipe, where each of its values was written, and what is wrong with single ones."""

    recipe: Recipe
    """With the default wherever a value is wrong."""
    settings: Settings
    problems: list[str]
    wrong: list[KeyPath]
    """The keys whose values are wrong, () where it is not known which key was meant."""


def resolve(name_or_path: str, overrides: Sequence[str]) -> Resolved:
    """The recipe as far as it can be read.

    Order of precedence, last wins: defaults, the preset named by `preset`, the file, each
    override from left to right. Raises RecipeError for a document that cannot be read at all.
    """
    problems: list[str] = []
    parsed = [_parsed_override(text, problems) for text in overrides]
    settings, presets = _inherited(name_or_path, _preset_override(parsed), problems)
    for path, value, place in parsed:
        _put(settings, path, value, place, problems)
    _open_empty_sections(settings.values)
    if (sentence := _drop_foreign(settings, presets)) is not None:
        _LOG.warning("%s", sentence)
    wrong: list[KeyPath] = [()] if problems else []
    _load_plugins(settings, name_or_path)
    try:
        recipe = Recipe.model_validate(settings.values)
    except ValidationError as error:
        problems.extend(schema_complaints(error, settings))
        recipe = _right_part(settings, error, wrong)
    else:
        for path, sentence in odd_values(settings.values, recipe.model_dump()):
            problems.append(located(path, sentence, settings))
            wrong.append(path)
    return Resolved(recipe, settings, problems, wrong)


def _load_plugins(settings: Settings, name_or_path: str) -> None:
    """Lets the plug-ins of a recipe, and the installed ones, register before values are read.

    Raises RecipeError at once: without them what the recipe says of them would be called wrong.
    """
    given = settings.values.get("plugins") or ()
    names = [given] if isinstance(given, str) else given
    if not (isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)):
        return  # the schema says what is wrong
    path = pathlib.Path(name_or_path)
    of_a_run = path.name == "recipe.yaml" and path.with_name("manifest.json").is_file()
    by_hand = (settings.place_of(("plugins",)) or "").startswith("override ")
    try:
        load_plugins(tuple(names), of_a_run=of_a_run and not by_hand)
    except UserError as error:
        sentence = f"must be usable: {error}"
        raise recipe_error([located(("plugins",), sentence, settings)]) from error
    refresh()


def _right_part(settings: Settings, error: ValidationError, wrong: list[KeyPath]) -> Recipe:
    """The recipe without what is wrong, whose paths are added to `wrong`."""
    values = copy.deepcopy(settings.values)
    while True:
        for details in plain_errors(error):
            path = _removed(values, details["loc"])
            if details["type"] == "extra_forbidden":
                wrong.append(())
            wrong.append(path)
        try:
            return Recipe.model_validate(values)
        except ValidationError as others:
            error = others


def _removed(values: dict[str, object], path: KeyPath) -> KeyPath:
    """Takes out what stands at `path`, or closest above it (lists whole), and gives its path."""
    section, depth = values, 0
    while depth < len(path) - 1:
        inner = section.get(str(path[depth]))
        if not (isinstance(inner, dict) and str(path[depth + 1]) in inner):
            break
        section, depth = inner, depth + 1
    section.pop(str(path[depth]), None)
    return path[: depth + 1]


def recipe_error(problems: Sequence[str]) -> RecipeError:
    """One error that lists all `problems`, each on a line of its own when there are several."""
    distinct = list(dict.fromkeys(problems))
    if len(distinct) == 1:
        return RecipeError(distinct[0])
    lines = "".join(f"\n  - {problem}" for problem in distinct[:_MOST_SHOWN])
    more = len(distinct) - _MOST_SHOWN
    rest = "\n  - and others" if more > 0 else ""
    least = "at least " if len(distinct) >= MOST_COMPLAINTS else ""
    return RecipeError(f"the recipe has {least}{len(distinct):,} errors:{lines}{rest}")


def _inherited(name_or_path: str, preset: object, problems: list[str]) -> tuple[Settings, Settings]:
    """The settings of the document over those of its preset, and that one's preset, and so on.

    And those of the documents alone that bring data: presets, and files on bundled data.
    """
    name = name_or_path
    document = _document(name_or_path, problems)
    if preset is not None:
        document.values["preset"] = preset
    elif name in preset_names() and "preset" not in document.values:
        document.values["preset"] = name
    documents, seen = [document], [name]
    while (base := documents[-1].values.get("preset")) is not None and base != seen[-1]:
        if not isinstance(base, str) or base not in preset_names() or base in seen:
            problems.append(_preset_complaint(base, documents[-1], seen))
            break
        seen.append(base)
        documents.append(_preset_document(base))
    settings, presets = Settings(), Settings()
    for name, layer in reversed(list(zip(seen, documents, strict=False))):
        _lay_over(settings, layer, problems)
        if name in preset_names() or _brings_bundled(layer):
            presets = copy.deepcopy(settings)
    return settings, presets


def _preset_complaint(found: object, document: Settings, seen: Sequence[str]) -> str:
    place = document.place_of(("preset",))
    where = "" if place is None else f"{place}: "
    if found in seen:
        return f"{where}preset must not lead back to itself, got {found!r}; remove the key"
    hint = did_you_mean(str(found), preset_names())
    return f"{where}preset must be one of {', '.join(preset_names())}, got {found!r}.{hint}"


def _preset_document(name: str) -> Settings:
    """The settings of a preset by itself, a copy of one's own."""
    return copy.deepcopy(_parsed_preset(name))


@functools.cache
def _parsed_preset(name: str) -> Settings:
    """Read once: a check of one recipe asks for most presets, many times each."""
    problems: list[str] = []
    settings = parse_document(show_preset(name), f"preset {name}", problems)
    if problems:
        raise recipe_error(problems)
    return settings


def _document(name_or_path: str, problems: list[str]) -> Settings:
    if name_or_path in preset_names():
        return _preset_document(name_or_path)
    try:
        with pathlib.Path(os.path.expanduser(name_or_path)).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(
                f"a recipe must have at most {MAX_BYTES:,} bytes, got more in {name_or_path}; "
                "name the YAML file of a recipe"
            )
        text = content.decode("utf-8-sig")
        return parse_document(text, name_or_path, problems)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{name_or_path}, line {line}: a recipe must be UTF-8 text, got the byte "
            f"0x{error.object[error.start]:02x}; save the file as UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # of a name that no file can have: with a NUL in it
        why = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(
            f"a recipe must be a preset ({', '.join(preset_names())}) or a readable YAML file, got "
            f"{name_or_path!r} ({why}).{did_you_mean(name_or_path, preset_names())}"
        ) from error


def _lay_over(settings: Settings, layer: Settings, problems: list[str]) -> None:
    """Merges a document into `settings`, its aliases last and only where the key is not given."""
    borrowed = {key: layer.values.pop(key) for key in list(layer.values) if key in ALIASES}
    _open_empty_sections(layer.values)
    settings.merge(layer)
    for alias, value in borrowed.items():
        place = layer.places[(alias,)]
        path = ALIASES[alias]
        if path in layer.places:
            problems.append(
                f"{place}: {alias} must not stand beside {dotted(path)} ({layer.places[path]}), "
                "which is the same setting; remove one of the two"
            )
            continue
        _put(settings, (alias,), value, place, problems)


def _open_empty_sections(values: dict[str, object]) -> None:
    """A section whose lines are all commented out reads as null and means: nothing given."""
    for name in known_keys(()):
        if name in values and values[name] is None and known_keys((name,)):
            values[name] = {}


def _parsed_override(text: str, problems: list[str]) -> tuple[KeyPath, object, str]:
    key, equals, value = text.partition("=")
    told = _SECRET.sub(r"\1\2***", text)
    key, place = key.strip(), f"override {told}"
    if not equals or not key or not value.strip():
        problems.append(
            f"{place}: an override must read key=value with both sides given, got {told!r}; "
            "write for example training.steps=200, or key=null to clear a value"
        )
        return (), None, place
    if not all(key.split(".")):
        problems.append(f"{place}: a key must be names joined by single dots, got {key!r}")
        return (), None, place
    try:
        return tuple(key.split(".")), parse_value(value), place
    except RecipeError as error:
        problems.append(f"{place}: the value must be YAML; quote it. {error}")
        return (), None, place


def _preset_override(parsed: Sequence[tuple[KeyPath, object, str]]) -> object:
    found = [value for path, value, _ in parsed if path == ("preset",)]
    return found[-1] if found else None


def _put(settings: Settings, path: KeyPath, value: object, place: str, problems: list[str]) -> None:
    if not path:
        return  # reported already
    if len(path) == 1 and str(path[0]) in AMBIGUOUS:
        problems.append(f"{place}: {path[0]} is an unknown key; write {AMBIGUOUS[str(path[0])]}")
        return
    if len(path) == 1:
        path = ALIASES.get(str(path[0]), path)
    try:
        settings.put(path, value, place)
    except KeyError as error:
        reached = error.args[0]
        problems.append(
            f"{place}: {dotted(reached)} must be a key of a section or a position in a list, got "
            f"a value or a shorter list at {dotted(reached[:-1])}; set that as a whole"
        )


# Data that belong together come together: what a preset, or a recipe on bundled data, says of its
# own data (dev, test, columns, subsets) does not hold with other training data. A warning says so.


def _brings_bundled(document: Settings) -> bool:
    """Whether a document names training data of the package, and so speaks of those."""
    train = _data(document).get("train")
    return isinstance(train, str) and train.startswith(BUNDLED)


def _drop_foreign(settings: Settings, presets: Settings) -> str | None:
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

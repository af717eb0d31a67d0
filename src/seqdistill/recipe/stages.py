"""Chains: recipes whose stages are trained one after another, each from the student before.

Here a stage becomes a recipe like any other. Whether the stages of a chain fit together is
`stage_checks`; where they are kept is not known here; nothing is trained.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from seqdistill.core.errors import did_you_mean
from seqdistill.recipe.checks import Contradiction
from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe, recipe_error
from seqdistill.recipe.schema import Recipe, Stage
from seqdistill.recipe.schema_errors import located, odd_numbers, schema_complaints
from seqdistill.recipe.spelling import all_keys

OF_THE_CHAIN = ("preset", "method", "output_dir", "compare", "stages")
"""Keys that name the recipe as a whole."""
_FIRST_WEIGHTS = ("init", "model", "encoder_layers", "decoder_layers", "architecture", "vocab_size")
"""Keys of `student` that say what it is before its first update."""
_NO_STATES: dict[str, str | None] = {"cache_hidden_states": "none", "states": None}
"""Settings of a teacher that nobody asks anything."""
KEYS = tuple(all_keys())


@functools.cache
def preset_recipe(name: str) -> Recipe:
    """The recipe of a preset, read once; not to be changed."""
    return read_recipe(name)


@functools.cache
def stage_presets() -> tuple[str, ...]:
    """The presets that one stage can follow: no comparisons, no chains, not the teacher's own."""
    return tuple(
        name
        for name in preset_names()
        if not (preset_recipe(name).compare or preset_recipe(name).stages or name == "teacher")
    )


def stage_recipe(recipe: Recipe, index: int, *, start_from: str | None) -> Recipe:
    """The recipe of one stage of a chain, which is no chain itself.

    The chain's recipe is the ground; over it lies what the stage's preset says (method, sequences,
    teacher.scores, objective, some of training), and over that the stage's `settings`. `pruning`
    is handed on: its ground is that of the stage before, since zeros once made are to stay. The
    student starts from the folder `start_from`, or from the recipe's own first weights when that is
    None.
    output_dir stays the chain's: where a stage is written is for the caller to say.

    Raises RecipeError for a preset that is none, and for settings unknown or out of range.
    """
    found: list[Contradiction] = []
    made = made_stage(recipe, index, start_from, found)
    if made is None or found:
        raise recipe_error([f"{item.key} {item.sentence}" for item in found])
    return made


def settings_by_key(recipe: Recipe) -> dict[str, object]:
    """Every setting as JSON can say it, under its dotted key: `training.steps`."""
    dumped: dict[str, Any] = recipe.model_dump(mode="json")
    found: dict[str, object] = {}
    for *sections, name in KEYS:
        values = dumped
        for section in sections:
            values = values[str(section)]
        found[dotted((*sections, name))] = values[str(name)]
    return found


def made_stage(
    recipe: Recipe, index: int, start_from: str | None, found: list[Contradiction]
) -> Recipe | None:
    """The recipe of a stage, or None and the reasons in `found`."""
    stage = recipe.stages[index]
    if stage.preset not in stage_presets():
        sentence = (
            f"must be a preset that a stage can follow ({', '.join(stage_presets())}), got "
            f"{stage.preset!r}; take one of them.{did_you_mean(stage.preset, stage_presets())}"
        )
        found.append(Contradiction(f"stages.{index}.preset", sentence))
        return None
    settings = Settings(recipe.model_dump(mode="json", exclude={"stages", "compare"}))
    # A stage before that is wrong is told by itself.
    if index > 0 and (before := made_stage(recipe, index - 1, None, [])) is not None:
        settings.values["pruning"] = before.pruning.model_dump(mode="json")
    settings.merge(Settings(_said_by(stage.preset)))
    if start_from is not None:
        first = {**dict.fromkeys(_FIRST_WEIGHTS), "init": "pretrained", "model": start_from}
        settings.put(("student",), first, "")
    problems = list(_lay_over(settings, stage))
    if index > 0:
        _end_pruning(settings, stage)
    _forget_states(settings, stage)
    made = None
    try:
        made = Recipe.model_validate(settings.values)
    except ValidationError as error:
        problems += schema_complaints(error, Settings())
    else:
        problems += [
            located(path, sentence, Settings())
            for path, sentence in odd_numbers(settings.values, made.model_dump())
        ]
    for problem in problems:
        key, _, sentence = problem.partition(" ")
        found.append(Contradiction(f"stages.{index}.settings.{key}", sentence))
    return None if problems else made


def _end_pruning(settings: Settings, stage: Stage) -> None:
    """Forgets the scheme that a stage was handed down when it prunes nothing itself."""
    pruning = settings.values["pruning"]
    if isinstance(pruning, dict) and pruning.get("sparsity") is None:
        own = {path[1] for path in given_keys(stage) if path[0] == "pruning" and len(path) > 1}
        settings.values["pruning"] = {key: pruning[key] for key in pruning if key in own}


def _forget_states(settings: Settings, stage: Stage) -> None:
    """Keeps no states of the teacher, unless told to, in a stage that asks it nothing."""
    teacher = settings.values["teacher"]
    if isinstance(teacher, dict) and teacher.get("scores") == "none":
        own = given_keys(stage)
        for name, nothing in _NO_STATES.items():
            if ("teacher", name) not in own:
                teacher[name] = nothing


def _said_by(preset: str) -> dict[str, object]:
    """What a preset's file says, without the defaults of what it does not."""
    said: dict[str, object] = preset_recipe(preset).model_dump(
        mode="json", exclude_unset=True, exclude={"output_dir"}
    )
    return said


def _lay_over(settings: Settings, stage: Stage) -> Iterator[str]:
    """Puts the stage's own values over `settings`; yields a sentence for each that cannot be."""
    for path, value in _leaves(stage.settings, ()):
        if path[0] in OF_THE_CHAIN:
            yield f"{dotted(path)} must be left out of a stage, whose preset names it; remove it"
        elif path[0] == "student" and path[1:2] and path[1] in _FIRST_WEIGHTS:
            yield (
                f"{dotted(path)} must be left out of a stage, since the first one starts from the "
                "recipe's student and any other from the student before; set it for the recipe"
            )
        else:
            try:
                settings.put(path, copy.deepcopy(value), "")
            except KeyError:
                yield (
                    f"{dotted(path)} must be a key of a section or a position in a list, got a "
                    "value or a shorter list on the way; set that as a whole"
                )


def _leaves(values: Mapping[str, object], path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """Path and value of each setting, written dotted ({training.steps: 3}) or nested."""
    for key, value in values.items():
        inner = (*path, *key.split("."))
        if isinstance(value, dict) and value:
            yield from _leaves(value, inner)
        else:
            yield inner, value


def given_keys(stage: Stage) -> set[KeyPath]:
    """The keys of a recipe that a stage's preset or its own settings give."""
    said = [*_leaves(_said_by(stage.preset), ()), *_leaves(stage.settings, ())]
    return {key_of(path) for path, _ in said}


def key_of(path: KeyPath) -> KeyPath:
    """The key that a path is or leads into: objective.terms for objective.terms.0.weight."""
    return next((key for key in KEYS if path[: len(key)] == key), path)

"""Chains: recipes whose stages are trained one after another, each from the student before.

Here a stage becomes a recipe like any other, and a chain is checked. Where stages are kept and
whether they are there already is not known here; nothing is trained.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from seqdistill.core.errors import did_you_mean
from seqdistill.recipe.checks import Contradiction, contradictions
from seqdistill.recipe.complaints import odd_number_complaints, schema_complaints
from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe, recipe_error
from seqdistill.recipe.schema import Recipe, Stage
from seqdistill.recipe.spelling import all_keys

_OF_THE_CHAIN = ("preset", "method", "output_dir", "compare", "stages")
"""Keys that name the recipe as a whole."""
_FIRST_WEIGHTS = ("init", "model", "encoder_layers", "decoder_layers", "architecture", "vocab_size")
"""Keys of `student` that say what it is before its first update."""
_IDLE_DECODING = ("batch_tokens", "threads")
"""Settings of decoding that change no output."""
_NO_STATES: dict[str, str | None] = {"keep_states": "none", "states": None}
"""Settings of a teacher that nobody asks anything."""
_KEYS = tuple(all_keys())


@functools.cache
def _preset(name: str) -> Recipe:
    return read_recipe(name)


@functools.cache
def stage_presets() -> tuple[str, ...]:
    """The presets that one stage can follow: no comparisons, no chains, not the teacher's own."""
    return tuple(
        name
        for name in preset_names()
        if not (_preset(name).compare or _preset(name).stages or name == "teacher")
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
    made = _made(recipe, index, start_from, found)
    if made is None or found:
        raise recipe_error([f"{item.key} {item.sentence}" for item in found])
    return made


def chain_contradictions(recipe: Recipe) -> list[Contradiction]:
    """What is wrong with the list of stages, and in each of them; nothing when all can be trained.

    A key that a stage's preset or settings give is named as what mends it, `stages.1.settings.`
    and the key; any other as the recipe's own.
    """
    found: list[Contradiction] = []
    if recipe.compare:
        sentence = "must not stand beside compare, got both; remove one of the two"
        found.append(Contradiction("stages", sentence))
    made = [
        _made(recipe, index, None if index == 0 else "the student before", found)
        for index in range(len(recipe.stages))
    ]
    stages = {index: stage for index, stage in enumerate(made) if stage is not None}
    found.extend(_of_the_stages(recipe, stages))
    if len(stages) == len(recipe.stages):
        found.extend(_unread(recipe, stages))
        found.extend(_shared_corpus(recipe, stages))
        found.extend(states_findings(recipe, list(stages.values())))
    return list(dict.fromkeys(found))


def settings_by_key(recipe: Recipe) -> dict[str, object]:
    """Every setting as JSON can say it, under its dotted key: `training.updates`."""
    dumped: dict[str, Any] = recipe.model_dump(mode="json")
    found: dict[str, object] = {}
    for *sections, name in _KEYS:
        values = dumped
        for section in sections:
            values = values[str(section)]
        found[dotted((*sections, name))] = values[str(name)]
    return found


def _made(
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
    if index > 0 and (before := _made(recipe, index - 1, None, [])) is not None:
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
        problems += odd_number_complaints(settings.values, made.model_dump(), Settings())
    for problem in problems:
        key, _, sentence = problem.partition(" ")
        found.append(Contradiction(f"stages.{index}.settings.{key}", sentence))
    return None if problems else made


def _end_pruning(settings: Settings, stage: Stage) -> None:
    """Forgets the scheme that a stage was handed down when it prunes nothing itself."""
    pruning = settings.values["pruning"]
    if isinstance(pruning, dict) and pruning.get("share") is None:
        own = {path[1] for path in _given(stage) if path[0] == "pruning" and len(path) > 1}
        settings.values["pruning"] = {key: pruning[key] for key in pruning if key in own}


def _forget_states(settings: Settings, stage: Stage) -> None:
    """Keeps no states of the teacher, unless told to, in a stage that asks it nothing."""
    teacher = settings.values["teacher"]
    if isinstance(teacher, dict) and teacher.get("scores") == "none":
        own = _given(stage)
        for name, nothing in _NO_STATES.items():
            if ("teacher", name) not in own:
                teacher[name] = nothing


def _said_by(preset: str) -> dict[str, object]:
    """What a preset's file says, without the defaults of what it does not."""
    said: dict[str, object] = _preset(preset).model_dump(
        mode="json", exclude_unset=True, exclude={"output_dir"}
    )
    return said


def _lay_over(settings: Settings, stage: Stage) -> Iterator[str]:
    """Puts the stage's own values over `settings`; yields a sentence for each that cannot be."""
    for path, value in _leaves(stage.settings, ()):
        if path[0] in _OF_THE_CHAIN:
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
    """Path and value of each setting, written dotted ({training.updates: 3}) or nested."""
    for key, value in values.items():
        inner = (*path, *key.split("."))
        if isinstance(value, dict) and value:
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _given(stage: Stage) -> set[KeyPath]:
    """The keys of a recipe that a stage's preset or its own settings give."""
    said = [*_leaves(_said_by(stage.preset), ()), *_leaves(stage.settings, ())]
    return {_key_of(path) for path, _ in said}


def _key_of(path: KeyPath) -> KeyPath:
    """The key that a path is or leads into: objective.terms for objective.terms.0.weight."""
    return next((key for key in _KEYS if path[: len(key)] == key), path)


def _of_the_stages(recipe: Recipe, stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """The contradictions of every stage, under the keys that mend them."""
    # Under the chain's name, so that name and output_dir are checked, too.
    each = {
        index: contradictions(stage.model_copy(update={"method": recipe.method}))
        for index, stage in stages.items()
    }
    for index, items in each.items():
        given = _given(recipe.stages[index])
        for item in items:
            if _key_of(tuple(item.key.split("."))) in given:
                yield Contradiction(f"stages.{index}.settings.{item.key}", item.sentence)
            elif all(item in others for others in each.values()):
                yield item
            else:
                yield Contradiction(item.key, f"in stages.{index} {item.sentence}")


def _unread(recipe: Recipe, stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """Settings of the recipe that hold in no stage, since each that would read them has its own."""
    given = {index: _given(recipe.stages[index]) for index in stages}
    own, default = settings_by_key(recipe), settings_by_key(Recipe())
    for path in _KEYS:
        if path[0] in _OF_THE_CHAIN or own[dotted(path)] == default[dotted(path)]:
            continue
        # Where people wrote the sequences nobody decodes.
        readers = [
            index
            for index, stage in stages.items()
            if path[0] != "sequences" or stage.sequences.written_by != "reference"
        ]
        overruling = [index for index in readers if path in given[index]]
        if overruling and overruling == readers:
            yield Contradiction(
                dotted(path),
                "must be left to the stages, since each that reads it brings its own, got a value "
                f"for all of them; write it as stages.{overruling[0]}.settings.{dotted(path)}",
            )
        elif overruling and path[0] == "pruning":
            # It would prune the first stage, and hardly anybody means that.
            yield Contradiction(
                dotted(path),
                f"must be left to the stages, since stages.{overruling[0]} brings its own, got a "
                "value for all of them; write it as "
                f"stages.{overruling[0]}.settings.{dotted(path)}",
            )


def _shared_corpus(recipe: Recipe, stages: Mapping[int, Recipe]) -> Iterator[Contradiction]:
    """A folder of the teacher's outputs that two stages with other outputs would both use."""
    first_with: dict[str, int] = {}
    for index, stage in stages.items():
        corpus = stage.sequences.corpus
        if corpus is None or stage.sequences.written_by == "reference":
            continue
        first = first_with.setdefault(corpus, index)
        decodings = [
            stages[i].sequences.decoding.model_dump(exclude=set(_IDLE_DECODING))
            for i in (first, index)
        ]
        if decodings[0] != decodings[1]:
            yield Contradiction(
                "sequences.corpus",
                f"must be another folder for each way of decoding, got {corpus!r} for stages."
                f"{first} and stages.{index}; remove it, or write it as stages.{index}.settings."
                "sequences.corpus",
            )


def states_findings(recipe: Recipe, systems: Sequence[Recipe]) -> Iterator[Contradiction]:
    """Kept states of the teacher that no system would read, or that two would overwrite.

    `systems` are the stages of the chain, or the compared ones.
    """
    readers = [system for system in systems if system.teacher.keep_states != "none"]
    if recipe.teacher.keep_states != "none" and not readers:
        yield Contradiction(
            "teacher.keep_states",
            "must be none where teacher.scores is none in every stage or compared preset, since "
            f"nobody would read the states, got {recipe.teacher.keep_states}; remove it",
        )
    folders: dict[str, Recipe] = {}
    for reader in readers:
        folder = reader.teacher.states
        if folder is None:
            continue
        first = folders.setdefault(folder, reader)
        sections = [
            system.sequences.model_dump(exclude={"decoding": set(_IDLE_DECODING), "corpus": True})
            for system in (first, reader)
        ]
        if sections[0] != sections[1] or first.data != reader.data:
            yield Contradiction(
                "teacher.states",
                f"must be another folder for {first.method} and for {reader.method}, which read "
                f"other sequences, got {folder!r} for both; remove it, since folders are "
                "named by content",
            )

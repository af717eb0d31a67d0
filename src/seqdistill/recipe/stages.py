"""Chains: recipes whose stages are trained one after another, each from the student before.

Here a stage becomes a recipe like any other, and the contradictions of a chain are found.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence

from pydantic import ValidationError

from seqdistill.core.errors import did_you_mean
from seqdistill.recipe.checks import contradictions, value_at
from seqdistill.recipe.documents import KeyPath, Settings, dotted
from seqdistill.recipe.presets import preset_names
from seqdistill.recipe.resolving import read_recipe, recipe_error
from seqdistill.recipe.schema import Recipe, Stage
from seqdistill.recipe.schema_errors import (
    ALIASES,
    all_keys,
    located,
    odd_values,
    schema_complaints,
)
from seqdistill.recipe.sections import Finding, Findings

_OF_THE_CHAIN = ("preset", "method", "output_dir", "compare", "stages")
"""Keys that name the recipe as a whole."""
STUDENT_BEFORE = "the student before"
"""Stands for the folder of a student that is not trained yet."""
_FIRST_WEIGHTS = ("init", "model", "encoder_layers", "decoder_layers", "architecture", "vocab_size")
"""Keys of `student` that say what it is before its first update."""
_UNLABELLED = ("data", "unlabelled")


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
    None. `output_dir` stays the chain's: where a stage is written is for the caller to say.

    Raises RecipeError for a preset that is none, and for settings unknown or out of range.
    """
    found: list[Finding] = []
    made = _made_stage(recipe, index, start_from, found)
    if made is None:
        raise recipe_error([f"{key} {sentence}" for key, sentence in found])
    return made


def unchained(recipe: Recipe) -> list[Recipe]:
    """The recipe itself, or those of its stages; where they start from has no name yet."""
    befores = [None, *[STUDENT_BEFORE] * len(recipe.stages)]
    stages = [stage_recipe(recipe, n, start_from=befores[n]) for n in range(len(recipe.stages))]
    return stages or [recipe]


def first_weights(start_from: str) -> dict[str, object]:
    """The section `student` of a recipe that goes on from the student in a folder."""
    return {**dict.fromkeys(_FIRST_WEIGHTS), "init": "pretrained", "model": start_from}


def first_weights_in(settings: Mapping[str, object]) -> list[str]:
    """The keys among settings that say what the student is before its first update."""
    paths = [ALIASES.get(dotted(path), path) for path, _ in _leaves(settings, ())]
    return [dotted(path) for path in paths if _is_of_first_weights(path)]


def chain_contradictions(recipe: Recipe) -> list[Finding]:
    """What is wrong with the list of stages, and in each of them; nothing when all can be trained.

    A key that a stage's preset or settings give is named where it can be fixed,
    `stages.1.settings.` and the key; any other as the recipe's own.
    """
    found: list[Finding] = []
    if recipe.compare:
        found.append(("stages", "must not stand beside compare, got both; remove one of the two"))
    made: dict[int, Recipe] = {}
    for index in range(len(recipe.stages)):
        before = None if index == 0 else STUDENT_BEFORE
        if (stage := _made_stage(recipe, index, before, found)) is not None:
            # Under the chain's name, so that name and output_dir are checked, too.
            made[index] = stage.model_copy(update={"method": recipe.method})
    each = {index: contradictions(stage) for index, stage in made.items()}
    keys = [{key for key, _ in items} for items in each.values()]
    for index, items in each.items():
        given = _given_keys(recipe.stages[index])
        for key, sentence in items:
            if _key_of(tuple(key.split("."))) in given:
                found.append((f"stages.{index}.settings.{key}", sentence))
            elif not all(key in others for others in keys):
                found.append((key, f"in stages.{index} {sentence}"))
            elif index == min(each):
                found.append((key, sentence))
    if len(made) == len(recipe.stages):
        found.extend(_overruled(recipe, made))
        found.extend(folder_contradictions(recipe, list(made.values())))
    return list(dict.fromkeys(found))


def _overruled(recipe: Recipe, stages: Mapping[int, Recipe]) -> Findings:
    """Settings of the recipe that hold in no stage, since each that reads them has its own."""
    given = {index: _given_keys(recipe.stages[index]) for index in stages}
    if recipe.data.unlabelled and not any(stage.data.unlabelled for stage in stages.values()):
        yield (
            "data.unlabelled",
            "must be left out of a chain in which every stage learns from targets in the data, got "
            f"{recipe.data.unlabelled!r}; remove it",
        )
    for path in all_keys():
        key = dotted(path)
        if path[0] in _OF_THE_CHAIN or value_at(recipe, key) == value_at(Recipe(), key):
            continue
        readers = {
            index
            for index, stage in stages.items()
            if path[:2] != ("sequences", "decoding") or stage.sequences.decoded_by_teacher
        }
        own = {index for index in readers if path in given[index]}
        # A share of pruning would prune the first stage, too, and hardly anybody means that.
        if own and (own == readers or path[0] == "pruning"):
            yield (
                key,
                "must be left to the stages, since each that reads it brings its own, got a value "
                f"for all of them; write it as stages.{min(own)}.settings.{key}",
            )


def folder_contradictions(recipe: Recipe, systems: Sequence[Recipe]) -> Findings:
    """States of the teacher that no system reads, and folders that two would fill differently.

    `systems` are the stages of the chain, or the compared ones.
    """
    keeping = [system for system in systems if system.teacher.keeps_scores]
    if recipe.teacher.cache_hidden_states != "none" and not keeping:
        yield (
            "teacher.cache_hidden_states",
            "must be none where teacher.scores is none in every stage or compared preset, got "
            f"{recipe.teacher.cache_hidden_states}; remove it",
        )
    decoding = [system for system in systems if system.sequences.decoded_by_teacher]
    idle = {"batch_tokens", "threads"}  # they change no output
    folders: dict[tuple[str, str], object] = {}
    for key, folder, content in (
        *(
            (
                "sequences.corpus",
                s.sequences.corpus,
                (
                    s.sequences.decoding.model_dump(exclude=idle),
                    s.data.train,
                    s.data.unlabelled,
                ),
            )
            for s in decoding
        ),
        *(
            (
                "teacher.kept_scores",
                s.teacher.kept_scores,
                (s.sequences.model_dump(exclude={"decoding": idle, "corpus": True}), s.data),
            )
            for s in keeping
        ),
    ):
        if folder is not None and folders.setdefault((key, folder), content) != content:
            yield (
                key,
                f"must be another folder for each stage or compared preset with other sequences, "
                f"got {folder!r} for two; remove it, since folders are named by content",
            )


def _made_stage(
    recipe: Recipe, index: int, start_from: str | None, found: list[Finding]
) -> Recipe | None:
    """The recipe of a stage, or None and the reasons in `found`."""
    stage = recipe.stages[index]
    if stage.preset not in stage_presets():
        sentence = (
            f"must be a preset that a stage can follow ({', '.join(stage_presets())}), got "
            f"{stage.preset!r}; take one of them.{did_you_mean(stage.preset, stage_presets())}"
        )
        found.append((f"stages.{index}.preset", sentence))
        return None
    settings = Settings(recipe.model_dump(mode="json", exclude={"stages", "compare"}))
    # A mistake in the stage before is reported for that one.
    if index > 0 and (before := _made_stage(recipe, index - 1, None, [])) is not None:
        settings.values["pruning"] = before.pruning.model_dump(mode="json")
    settings.merge(Settings(_said_by(stage.preset)))
    if start_from is not None:
        settings.put(("student",), first_weights(start_from), "")
    problems = list(_lay_over(settings, stage))
    _forget_unread(settings, stage, is_first=index == 0)
    made = None
    try:
        made = Recipe.model_validate(settings.values)
    except ValidationError as error:
        problems += schema_complaints(error, Settings())
    else:
        problems += [
            located(path, sentence, Settings())
            for path, sentence in odd_values(settings.values, made.model_dump())
        ]
        if made.sequences.needs_references and _UNLABELLED not in _given_keys(stage):
            # It is for the stages that learn from what is written for it.
            data = made.data.model_copy(update={"unlabelled": None})
            made = made.model_copy(update={"data": data})
    for key, _, sentence in (problem.partition(" ") for problem in problems):
        found.append((f"stages.{index}.settings.{key}", sentence))
    return None if problems else made


def _forget_unread(settings: Settings, stage: Stage, *, is_first: bool) -> None:
    """Takes out what a stage was handed down and neither reads nor sets itself.

    That is how to prune where it prunes nothing, and scores of a teacher that is not asked.
    """
    unread: list[tuple[str, str]] = []
    if not is_first and _inner(settings, "pruning").get("sparsity") is None:
        unread += [("pruning", "scheme"), ("pruning", "exclude")]
    if _inner(settings, "teacher").get("scores") == "none":
        unread += [("teacher", "cache_hidden_states"), ("teacher", "kept_scores")]
        if _inner(settings, "sequences").get("origin") == "reference":
            unread.append(("teacher", "prompt_column"))
    for section, name in unread:
        if (section, name) not in _given_keys(stage):
            _inner(settings, section).pop(name, None)


def _inner(settings: Settings, section: str) -> dict[str, object]:
    values = settings.values[section]
    return values if isinstance(values, dict) else {}


def _said_by(preset: str) -> dict[str, object]:
    """What a preset's file says, without the defaults of what it does not."""
    said: dict[str, object] = preset_recipe(preset).model_dump(
        mode="json", exclude_unset=True, exclude={"output_dir"}
    )
    return said


def _lay_over(settings: Settings, stage: Stage) -> Iterator[str]:
    """Puts the stage's own values over `settings`; yields a sentence for each that cannot be."""
    for path, value in _leaves(stage.settings, ()):
        if path[0] in _OF_THE_CHAIN:
            yield f"{dotted(path)} must be left out of a stage, whose preset names it; remove it"
        elif _is_of_first_weights(path):
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


def _is_of_first_weights(path: KeyPath) -> bool:
    return path[0] == "student" and path[1:2] != () and path[1] in _FIRST_WEIGHTS


def _leaves(values: Mapping[str, object], path: KeyPath) -> Iterator[tuple[KeyPath, object]]:
    """Path and value of each setting, written dotted ({training.steps: 3}) or nested."""
    for key, value in values.items():
        inner = (*path, *key.split("."))
        if isinstance(value, dict) and value:
            yield from _leaves(value, inner)
        else:
            yield inner, value


def _given_keys(stage: Stage) -> set[KeyPath]:
    """The keys of a recipe that a stage's preset or its own settings give."""
    said = [*_leaves(_said_by(stage.preset), ()), *_leaves(stage.settings, ())]
    return {_key_of(path) for path, _ in said}


def _key_of(path: KeyPath) -> KeyPath:
    """The key that a path is or leads into: objective.terms for objective.terms.0.weight."""
    return next((key for key in all_keys() if path[: len(key)] == key), path)

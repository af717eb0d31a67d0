"""The systems that a recipe stands for: itself, or one for each preset that it compares.

Also where a system's run directory lies, and all that contradicts.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

from seqdistill.core.errors import did_you_mean
from seqdistill.recipe.checks import contradictions
from seqdistill.recipe.objective_schema import ObjectiveSection
from seqdistill.recipe.resolving import read_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sections import Finding, Findings
from seqdistill.recipe.sequences_schema import DecodingSection, SequencesSection
from seqdistill.recipe.stages import (
    chain_contradictions,
    folder_contradictions,
    preset_recipe,
    stage_presets,
    stage_recipe,
)


def output_folder(recipe: Recipe) -> pathlib.Path:
    """The run directory: `output_dir` with `{method}` and `{seed}` filled in."""
    filled = recipe.output_dir.replace("{method}", recipe.method)
    return pathlib.Path(filled.replace("{seed}", str(recipe.seed)))


def trainings(recipe: Recipe) -> list[Recipe]:
    """The recipes of all stages, or of all compared presets, from the first weights; else itself.

    Raises RecipeError as `stage_recipe` does.
    """
    stages = [stage_recipe(recipe, n, start_from=None) for n in range(len(recipe.stages))]
    return stages or [compare_member(recipe, preset) for preset in recipe.compare] or [recipe]


def compare_member(recipe: Recipe, preset_name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of one compared system.

    `method`, the origin of `sequences`, `objective` and `teacher.scores` are the preset's; data,
    models, decoding, training, evaluation and seed are those of the comparing `recipe`. Its
    output_dir is the sub-folder of that name, and it compares nothing itself. Scores of the teacher
    are kept where the preset reads them; its own prompts go where nothing asks it. `overrides` are
    of the preset.
    """
    preset = read_recipe(preset_name, overrides) if overrides else preset_recipe(preset_name)
    teacher: dict[str, object] = {"scores": preset.teacher.scores}
    sequences = _sequences_of(recipe, preset)
    if preset.teacher.scores == "none":
        teacher |= {"cache_hidden_states": "none", "kept_scores": None}
        teacher |= {} if sequences.decoded_by_teacher else {"prompt_column": None}
    return recipe.model_copy(
        update={
            "preset": preset_name,
            "method": preset.method,
            "output_dir": str(output_folder(recipe) / preset.method),
            "compare": (),
            "objective": preset.objective,
            "teacher": recipe.teacher.model_copy(update=teacher),
            "sequences": sequences,
        }
    )


def _sequences_of(recipe: Recipe, preset: Recipe) -> SequencesSection:
    """Origins and ways of sampling are the preset's; engines, lengths and folders the recipe's."""
    own, theirs = recipe.sequences, preset.sequences
    if not theirs.rolls_out:
        most = theirs.max_word_error_rate
        return own.model_copy(update={"origin": theirs.origin, "max_word_error_rate": most})
    shared = ("engine", "max_new_tokens", "samples_every")
    rollouts = {name: getattr(own.rollouts, name) for name in shared}
    return own.model_copy(
        update={
            "origin": theirs.origin,
            "max_word_error_rate": None,
            "decoding": _decoding_of(recipe, preset),
            "rollouts": theirs.rollouts.model_copy(update=rollouts),
            "mixture": theirs.mixture,
            "replay": theirs.replay,
            "near_policy": theirs.near_policy,
        }
    )


def _decoding_of(recipe: Recipe, preset: Recipe) -> DecodingSection:
    """The recipe's; where the preset samples the teacher's distribution no search will do."""
    own, theirs = recipe.sequences.decoding, preset.sequences.decoding
    if theirs.mode != "sample":
        return own
    shared = ("engine", "compute_type", "max_new_tokens", "batch_tokens", "threads")
    return theirs.model_copy(update={name: getattr(own, name) for name in shared})


@functools.cache
def comparable_presets() -> tuple[str, ...]:
    """The presets that start where others start: no fine-tuning, no pruning, no chains, and no
    teacher of their own."""
    return tuple(
        name
        for name in stage_presets()
        if preset_recipe(name).sequences.origin != "interpolation"
        and preset_recipe(name).pruning.sparsity is None
        and not preset_recipe(name).teacher.is_student
    )


def all_contradictions(recipe: Recipe) -> list[Finding]:
    """Those of the recipe's system, of its stages, or of its comparison and each compared system.

    Each stands once.
    """
    if recipe.stages:
        return chain_contradictions(recipe)
    if not recipe.compare:
        return contradictions(recipe)
    found = list(_comparison(recipe))
    compared = [name for name in dict.fromkeys(recipe.compare) if name in comparable_presets()]
    systems = [compare_member(recipe, name) for name in compared] or [recipe]
    for system in systems:
        found.extend(contradictions(system))
    found.extend(folder_contradictions(recipe, systems))
    return list(dict.fromkeys(found))


def _comparison(recipe: Recipe) -> Findings:
    """What is wrong with the list of compared presets, and what they would overrule in silence."""
    for position, name in enumerate(recipe.compare):
        if name not in comparable_presets():
            yield (
                f"compare.{position}",
                f"must be a preset that can be compared ({', '.join(comparable_presets())}), got "
                f"{name!r}; take one of them.{did_you_mean(name, comparable_presets())}",
            )
        elif name in recipe.compare[:position]:
            yield (
                f"compare.{position}",
                f"must not name a preset twice, got {name!r} again; remove it",
            )
    overruled = {
        "objective": recipe.objective != ObjectiveSection(),
        "teacher.scores": recipe.teacher.scores != "none",
        "sequences.origin": recipe.sequences.origin != "reference",
    }
    for key in (key for key, given in overruled.items() if given):
        yield (
            key,
            "must be left out in a comparison, since each compared preset brings its own, got a "
            "setting of it; remove it, or remove compare",
        )

"""What would fail late, asked early: lengths against positions, architectures against engines.

Raises UserError, so that a run is refused before it is begun and not after hours of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqdistill.assembly.data import epoch_batches
from seqdistill.assembly.decoding import (
    EngineChoice,
    evaluation_engine,
    labelling_engine,
    rollout_engine,
)
from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, RecipeError, with_hint
from seqdistill.data.dataset import EncodedDataset, cut_unread_targets
from seqdistill.generation.conversion import loader_for
from seqdistill.generation.model_facts import check_output_length, pair_facts
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe


def learns_from_references(recipe: Recipe) -> bool:
    """Whether a model reads the targets in the data: not where they are compared with alone."""
    return "reference" in recipe.sequences.writers


def check_models_fit(
    recipe: Recipe,
    *,
    teachers: Sequence[LoadedModel],
    student: LoadedModel,
    train: EncodedDataset,
    asks_teacher: bool,
) -> None:
    """Everything that training, labelling and the scores on dev and test need of the models."""
    sequences, evaluation = recipe.sequences, recipe.evaluation
    learned = learns_from_references(recipe)
    read = train if learned else cut_unread_targets(train, max_target_tokens=0)
    scored = [("teacher", teacher) for teacher in teachers if asks_teacher]
    if recipe.data.dev is not None or recipe.data.test is not None:
        _check_engine(student, evaluation_engine(recipe), evaluation.max_new_tokens)
    if sequences.rolls_out:
        _check_engine(student, rollout_engine(recipe), sequences.rollouts.max_new_tokens)
    for teacher in teachers if sequences.decoded_by_teacher else ():
        _check_engine(teacher, labelling_engine(recipe), sequences.decoding.max_new_tokens)
    for role, pair in [("student", student), *scored]:
        _check_lengths(pair, read, role)
        if sequences.rolls_out:
            _check_rollouts(pair, recipe, train, role)
    if sequences.rolls_out and sequences.origin == "replay":
        _check_replay(recipe, train, student.kind)


def _check_replay(recipe: Recipe, train: EncodedDataset, kind: Kind) -> None:
    """Raises RecipeError where a batch of the first epoch has more sequences than are kept."""
    samples, capacity = (
        recipe.sequences.rollouts.samples_per_prompt,
        recipe.sequences.replay.capacity,
    )
    if (wanted := epoch_batches(recipe, train, kind).largest * samples) > capacity:
        raise RecipeError(
            "sequences.replay.capacity must be at least the sequences of a micro-batch, since one "
            f"is drawn whole, got {capacity} and a micro-batch of {wanted}; raise it, or lower "
            "training.batch_tokens"
        )


def _check_engine(pair: LoadedModel, engine: EngineChoice, max_new_tokens: int) -> None:
    """Raises UserError for an engine that cannot run the model, or outputs beyond its positions."""
    if engine.name == "ctranslate2" or (engine.name == "auto" and not engine.may_fall_back):
        with with_hint(engine.remedy):
            loader_for(pair.model)
    key = engine.key.removesuffix("engine") + "max_new_tokens"
    check_output_length(max_new_tokens, facts=pair_facts(pair), key=key)


def _check_lengths(pair: LoadedModel, examples: EncodedDataset, role: str) -> None:
    """Raises DataError for an example with more tokens than the model has positions."""
    facts = pair_facts(pair)
    limit = facts.max_positions
    if limit is None:
        return
    lengths = examples.lengths.for_teacher() if role == "teacher" else examples.lengths
    lengths = dataclasses.replace(lengths, target=lengths.target + len(facts.prefix_ids))
    if not examples.reads_text:  # a limit of positions is one of tokens
        lengths = dataclasses.replace(lengths, source=np.zeros_like(lengths.source))
    for index in np.flatnonzero(lengths.widths(pair.kind) > limit)[:1]:
        raise DataError(
            f"Every example must fit the {role}'s {limit} positions, but example "
            f"{examples[int(index)].id!r} has {lengths.source[index]} source and "
            f"{lengths.target[index]} target tokens; lower data.max_source_tokens and "
            "data.max_target_tokens."
        )


def _check_rollouts(pair: LoadedModel, recipe: Recipe, train: EncodedDataset, role: str) -> None:
    """Raises UserError where what the student writes would not fit the model's positions."""
    most, key = recipe.sequences.rollouts.max_new_tokens, "sequences.rollouts.max_new_tokens"
    facts = pair_facts(pair)
    check_output_length(most, facts=facts, key=key)
    limit = facts.max_positions
    lengths = train.lengths.for_teacher() if role == "teacher" else train.lengths
    longest = int(lengths.prompt.max(initial=0))
    if pair.kind == "causal" and limit is not None and longest + most > limit:
        raise RecipeError(
            f"{key} must leave room for the longest prompt in the {role}'s {limit} positions, got "
            f"{most} beside {longest} tokens; lower it, or data.max_source_tokens"
        )

"""What would fail late, asked early: lengths against positions, architectures against engines.

Looks at configurations and lengths; converts, decodes and trains nothing. Raises UserError, so that
a run is refused before it is begun and not after hours of training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqdistill.assembly.decoding import may_fall_back, remedy_of
from seqdistill.core.errors import DataError, RecipeError, with_hint
from seqdistill.data.dataset import EncodedDataset, cut_unread_targets
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.conversion import loader_for
from seqdistill.generation.model_facts import check_output_length, pair_facts
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe


def learns_from_references(recipe: Recipe) -> bool:
    """Whether a model reads the targets in the data: not where they are compared with alone."""
    return "reference" in recipe.sequences.writers


def check_lengths_fit(pair: LoadedModel, examples: Sequence[EncodedExample], role: str) -> None:
    """Raises DataError for an example with more tokens than the model has positions.

    `role`, teacher or student, names the model in the message.
    """
    facts = pair_facts(pair)
    limit = facts.max_positions
    if limit is None:
        return
    dataset = EncodedDataset.of(examples)
    lengths = dataset.lengths
    lengths = dataclasses.replace(lengths, target=lengths.target + len(facts.prefix_ids))
    if not dataset.reads_text:  # a limit of positions is one of tokens
        lengths = dataclasses.replace(lengths, source=np.zeros_like(lengths.source))
    for index in np.flatnonzero(lengths.widths(pair.kind) > limit)[:1]:
        raise DataError(
            f"Every example must fit the {role}'s {limit} positions, but example "
            f"{dataset[int(index)].id!r} has {lengths.source[index]} source and "
            f"{lengths.target[index]} target tokens; lower data.max_source_tokens and "
            "data.max_target_tokens."
        )


def check_decoding_fits(
    pair: LoadedModel, *, engine: str, compute_type: str, max_new_tokens: int, section: str
) -> None:
    """Raises UserError for an engine that cannot run the model, or outputs beyond its positions.

    `section` is the part of the recipe that both settings stand in.
    """
    if engine != "transformers" and not may_fall_back(engine, compute_type):
        with with_hint(remedy_of(f"{section}.engine", compute_type)):
            loader_for(pair.model)
    facts = pair_facts(pair)
    check_output_length(max_new_tokens, facts=facts, key=f"{section}.max_new_tokens")


def check_rollouts_fit(
    pair: LoadedModel, recipe: Recipe, prompts: Sequence[EncodedExample], role: str
) -> None:
    """Raises UserError where what the student writes would not fit the model's positions.

    `role`, teacher or student, names the model in the message.
    """
    section, rollouts = "sequences.rollouts", recipe.sequences.rollouts
    if role == "student" and rollouts.engine == "ctranslate2":
        with with_hint(remedy_of(f"{section}.engine")):
            loader_for(pair.model)
    facts = pair_facts(pair)
    check_output_length(rollouts.max_new_tokens, facts=facts, key=f"{section}.max_new_tokens")
    limit = facts.max_positions
    longest = int(EncodedDataset.of(prompts).lengths.prompt.max(initial=0))
    if pair.kind == "causal" and limit is not None and longest + rollouts.max_new_tokens > limit:
        raise RecipeError(
            f"{section}.max_new_tokens must leave room for the longest prompt in the {role}'s "
            f"{limit} positions, got {rollouts.max_new_tokens} beside {longest} tokens; lower it, "
            "or data.max_source_tokens"
        )


def check_models_fit(
    recipe: Recipe,
    *,
    teacher: LoadedModel | None,
    student: LoadedModel,
    train: Sequence[EncodedExample],
    asks_teacher: bool,
) -> None:
    """Everything that training, labelling and the scores on dev and test need of the models."""
    read = (
        train if learns_from_references(recipe) else cut_unread_targets(train, max_target_tokens=0)
    )
    check_lengths_fit(student, read, "student")
    if recipe.data.dev is not None or recipe.data.test is not None:
        check_decoding_fits(
            student,
            engine=recipe.evaluation.engine,
            compute_type=recipe.evaluation.compute_type,
            max_new_tokens=recipe.evaluation.max_new_tokens,
            section="evaluation",
        )
    if recipe.sequences.rolls_out:
        check_rollouts_fit(student, recipe, train, "student")
        if asks_teacher and teacher is not None:
            check_rollouts_fit(teacher, recipe, train, "teacher")
    if teacher is None:
        return
    if asks_teacher:
        check_lengths_fit(teacher, read, "teacher")
    if recipe.sequences.decoded_by_teacher:
        check_decoding_fits(
            teacher,
            engine=recipe.sequences.decoding.engine,
            compute_type=recipe.sequences.decoding.compute_type,
            max_new_tokens=recipe.sequences.decoding.max_new_tokens,
            section="sequences.decoding",
        )

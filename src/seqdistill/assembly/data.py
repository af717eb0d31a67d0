"""From a recipe's data section to examples and token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import torch

from seqdistill.core.batch import Kind
from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.generators import named_generator
from seqdistill.data.batching import EpochBatches
from seqdistill.data.collating import Collator
from seqdistill.data.columns import Targets
from seqdistill.data.conversations import ChatSettings
from seqdistill.data.dataset import Encoded, EncodedDataset, cut_long_sources, leave_out_long
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.readers import read_examples
from seqdistill.data.tables import Table
from seqdistill.data.text_encoding import encode
from seqdistill.data.unlabelled import num_unlabelled, with_unlabelled
from seqdistill.generation.model_facts import declared_ends, pair_facts
from seqdistill.models.adapters import decoder_prefix_ids, decoder_start_id
from seqdistill.models.loading import LoadedModel
from seqdistill.models.modalities import modality_of
from seqdistill.recipe.schema import DataSection, Recipe, TeacherSection

Split = Literal["train", "dev", "test"]


def read_split(recipe: Recipe, split: Split, *, targets: Targets = "needed") -> ExampleTable:
    """The examples of a split, or the seeded subset of them that the recipe asks for.

    Those of train are followed by all of `data.unlabelled`.
    """
    data = recipe.data
    spec, limit = {
        "train": (data.train, data.max_train_examples),
        "dev": (data.dev, data.max_dev_examples),
        "test": (data.test, data.max_test_examples),
    }[split]
    if spec is None:
        raise RecipeError(f"data.{split} must name the {split} examples, but it is not set.")
    teacher = recipe.teacher if split == "train" else TeacherSection()
    examples = _read(data, spec, split, targets, teacher)
    if targets == "needed" and split != "train":
        _check_comparable(examples, split)
    if limit is not None and limit < len(examples):
        generator = named_generator(recipe.seed, f"{split} subset")
        order = torch.randperm(len(examples), generator=generator)
        examples = examples.select(order[:limit].sort().values.numpy())
    if split != "train" or data.unlabelled is None:
        return examples
    unlabelled = _read(data, data.unlabelled, split, "unread", teacher)
    return with_unlabelled(examples, unlabelled)


def _read(
    data: DataSection, spec: str, split: Split, targets: Targets, teacher: TeacherSection
) -> ExampleTable:
    return read_examples(
        spec,
        split=split,
        source_column=data.source_column,
        target_column=data.target_column,
        source_language=data.row_languages[0],
        target_language=data.row_languages[1],
        targets=targets,
        ignore_columns=data.ignore_columns,
        extra_columns=data.extra_columns if split == "train" else (),
        teacher_column=teacher.prompt_column,
        route=teacher.route,
    )


def counted_train(rows: Table[Any], data: DataSection) -> str:
    """How many rows are of which file, for people: `60 of train.tsv and 9 of unlabelled.txt`."""
    if data.unlabelled is None:
        return f"{len(rows):,} of {data.train}"
    others = num_unlabelled(rows)
    return f"{len(rows) - others:,} of {data.train} and {others:,} of {data.unlabelled}"


def _check_comparable(examples: Sequence[Example], split: Split) -> None:
    """Raises DataError for a last turn without content: there is nothing to compare with."""
    for example in examples:
        if example.target is not None and not example.target.strip():
            raise DataError(
                f"The last turn of every conversation in data.{split} must have content to compare "
                f"outputs with, but example {example.id!r} ends with a call or a thought alone; "
                "take it out"
            )


def chat_settings(data: DataSection) -> ChatSettings:
    """How the recipe has conversations rendered and learned."""
    return ChatSettings(data.template_options, data.assistant_turns)


def encode_for(
    pair: LoadedModel, examples: Sequence[Example], chat: ChatSettings
) -> EncodedDataset:
    """Token ids of the examples as the model reads and writes them."""
    return encode(
        examples,
        pair.tokenizer,
        pair.kind,
        chat,
        prefix_ids=decoder_prefix_ids(pair.model),
        declared_ends=declared_ends(pair.model),
        extractor=pair.extractor,
    )


def encode_for_evaluation(
    examples: Sequence[Example], pair: LoadedModel, data: DataSection
) -> Encoded:
    """Token ids of every example; long sources are cut and counted, and last turns alone count."""
    chat = dataclasses.replace(chat_settings(data), assistant_turns="last")
    return cut_long_sources(
        encode_for(pair, examples, chat),
        max_source_tokens=data.max_source_tokens,
        kind=pair.kind,
        max_steps=pair_facts(pair).max_steps,
    )


def within_limits(examples: EncodedDataset, pair: LoadedModel, data: DataSection) -> Encoded:
    """The examples that are no longer than the recipe and the model allow, and how many are left
    out."""
    return leave_out_long(
        examples,
        max_source_tokens=data.max_source_tokens,
        max_target_tokens=data.max_target_tokens,
        max_steps=pair_facts(pair).max_steps,
    )


def without_references(examples: Sequence[Example]) -> ExampleTable:
    """The same sources with nothing to compare to."""
    table = ExampleTable.of(examples)
    return table.edited("without references", Example.without_reference)


def as_teacher_reads(examples: Sequence[Example]) -> ExampleTable:
    """The same answers after the prompts that the teacher reads."""
    table = ExampleTable.of(examples)
    return table.edited("as the teacher reads", Example.for_teacher)


def epoch_batches(
    recipe: Recipe,
    examples: EncodedDataset,
    kind: Kind,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> EpochBatches:
    """The batches that a recipe trains on; of prompts with room for all that answers them."""
    sequences = recipe.sequences
    new = sequences.rollouts.max_new_tokens if sequences.rolls_out else 0
    return EpochBatches(
        examples,
        kind,
        batch_tokens=max(1, recipe.training.batch_tokens // sequences.answers_per_prompt),
        expected_new_tokens=new,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
    )


def collator_for(pair: LoadedModel) -> Collator:
    """The collator that starts and pads sequences as the model expects."""
    tokenizer = pair.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if pair.kind == "causal":
        return Collator(pair.kind, pad_id=int(pad or 0))
    return Collator(
        pair.kind,
        pad_id=int(pad or 0),
        start_id=decoder_start_id(pair.model),
        prefix_ids=decoder_prefix_ids(pair.model),
        pad=modality_of(pair.model).pad,
    )

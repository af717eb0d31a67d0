"""What recipes build, opened before its first update, and both models without the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from tests.jobs import naive
from torch import Tensor
from transformers import PreTrainedModel

from seqdistill.assembly.preparing import Prepared, prepare
from seqdistill.assembly.sequences import build_source, training_sequences
from seqdistill.core.batch import SequenceBatch
from seqdistill.core.progress import NoProgress
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding
from seqdistill.generation.transformers_engine import TransformersGenerator
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.sources.completions import Completion
from seqdistill.sources.source import SequenceSource


@dataclasses.dataclass
class Bench:
    """What a recipe builds before its first update, and what is written for it."""

    prepared: Prepared
    examples: Sequence[EncodedExample]
    source: SequenceSource
    written: list[Completion]

    def batch(self, update: int = 1, updates: int = 9) -> SequenceBatch:
        """The first batch of an update; `written` then holds its sequences alone."""
        self.written.clear()
        self.source.begin_update(update, updates)
        return self.source.next_batch()


def bench(recipe: Recipe, *, rank: int = 0, world_size: int = 1) -> Bench:
    prepared = prepare(recipe)
    examples, _ = training_sequences(prepared, NoProgress())
    written: list[Completion] = []
    source = build_source(
        prepared,
        examples,
        rank=rank,
        world_size=world_size,
        on_completions=lambda update, batch: written.extend(batch.listed()),
    )
    return Bench(prepared, examples, source, written)


def plain_logits(model: PreTrainedModel, example: EncodedExample) -> Tensor:
    """(time, vocab): what the model says before each target."""
    with torch.no_grad():
        return naive.plain_logits(model, example.source_ids, example.target_ids)


def scored(folder: Path, written: Sequence[Completion]) -> list[naive.Scored]:
    """The sequences by both models' plain logits, of the symbols that both of them have."""
    student, teacher = (naive.plain_model(folder / who) for who in ("student", "teacher"))
    found = []
    for one in written:
        own, others = (plain_logits(model, one.example) for model in (student, teacher))
        shared = min(own.shape[1], others.shape[1])
        found.append(naive.Scored(one.example.target_ids, own[:, :shared], others[:, :shared]))
    return found


def likeliest_outputs(
    pair: LoadedModel,
    examples: Sequence[EncodedExample],
    *,
    beam: int,
    longest: int,
    vocab_size: int | None = None,
) -> list[tuple[int, ...]]:
    """What the model writes for each source, which is decoded alone: ids below `vocab_size`."""
    generator = TransformersGenerator(
        pair.model, pair.tokenizer, kind=pair.kind, vocab_size=vocab_size
    )
    decoding = Decoding(beam_size=beam, max_new_tokens=longest)
    return [generator.generate([e.source_ids], decoding)[0][0].token_ids for e in examples]

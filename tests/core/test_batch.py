"""The batch: what it counts, and that moving it loses nothing."""

from __future__ import annotations

import dataclasses

import torch
from tests.tiny import collator, random_examples

from seqdistill.core.batch import SequenceBatch


def test_counts_are_of_examples_and_of_targets() -> None:
    examples = random_examples(5)
    for kind in ("seq2seq", "causal"):
        batch = collator(kind)(examples)
        assert batch.num_sequences == 5
        assert batch.num_targets == sum(len(example.target_ids) for example in examples)


def test_moving_keeps_every_field() -> None:
    batch = collator("seq2seq")(random_examples(3))
    moved = batch.to(torch.device("meta"))
    for field in dataclasses.fields(SequenceBatch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape) == ("meta", before.shape), field.name
        else:
            assert after == before
    assert collator("causal")(random_examples(3)).to(torch.device("cpu")).source_ids is None

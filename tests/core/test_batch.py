"""The batch: what it counts, and that moving it loses nothing."""

from __future__ import annotations

import dataclasses

import torch
from tests.tiny import collator, random_examples

from seqdistill.core.batch import SequenceBatch


def test_moving_keeps_every_field() -> None:
    examples = [dataclasses.replace(e, extras={"pass_rate": 0.25}) for e in random_examples(3)]
    batch = collator("seq2seq")(examples)
    moved = batch.to(torch.device("meta"))
    assert batch.source is not None and moved.source is not None
    assert moved.source.tensors["input_ids"].device.type == moved.source.mask.device.type == "meta"
    assert moved.extras["pass_rate"].device.type == "meta"
    assert batch.extras["pass_rate"].tolist() == [0.25] * 3
    for field in dataclasses.fields(SequenceBatch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape) == ("meta", before.shape), field.name
        elif field.name not in ("source", "extras"):
            assert after == before
    assert collator("causal")(examples).to(torch.device("cpu")).source is None

"""Sequences that exist before training: read in a seeded order, with the teacher's targets."""

from __future__ import annotations

import logging

import pytest
import torch
from tests.tiny import EOS, collator, random_examples

from seqdistill.core.errors import DataError
from seqdistill.sources.stored import StoredSequences, with_teacher_targets

EXAMPLES = random_examples(30)


def source(seed: int = 1) -> StoredSequences:
    return StoredSequences(EXAMPLES, collator("seq2seq"), batch_tokens=24, seed=seed)


def test_batches_hold_the_examples_they_name() -> None:
    by_id = {example.id: example for example in EXAMPLES}
    batch = source().next_batch()
    assert batch.num_sequences > 1
    for row, example_id in enumerate(batch.example_ids):
        target = batch.target_ids[row][batch.target_mask[row]]
        assert tuple(target.tolist()) == by_id[example_id].target_ids


def test_a_resumed_source_reads_on_where_it_was() -> None:
    whole, half = source(), source()
    for _ in range(17):
        whole.next_batch()
        half.next_batch()
    resumed = source()
    resumed.load_state_dict(half.state_dict())
    for _ in range(20):
        expected, found = whole.next_batch(), resumed.next_batch()
        assert found.example_ids == expected.example_ids
        assert torch.equal(found.target_ids, expected.target_ids)


def test_several_outputs_are_several_examples_and_none_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outputs: list[tuple[str, list[tuple[int, ...]]]] = [
        ("e0", [(9, EOS), (7, EOS)]),
        ("too long", [(5, EOS)]),
        ("e1", []),
        ("e2", [(6, EOS)]),
        ("e3", []),
    ]
    with caplog.at_level(logging.WARNING):
        written = with_teacher_targets(EXAMPLES[:4], outputs)
    assert [(e.id, e.target_ids) for e in written] == [
        ("e0", (9, EOS)),
        ("e0", (7, EOS)),
        ("e2", (6, EOS)),
    ]
    assert "left out 2 examples" in caplog.text


def test_a_corpus_of_other_data_is_refused() -> None:
    with pytest.raises(DataError, match="none 'e0' at its place"):
        with_teacher_targets(EXAMPLES, [("other", [(5, EOS)])])
    with pytest.raises(DataError, match="for none of its 30 examples"):
        with_teacher_targets(EXAMPLES, [(example.id, []) for example in EXAMPLES])

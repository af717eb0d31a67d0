"""Batches hold every row once within their budget of tokens."""

from __future__ import annotations

import pytest

from seqdistill.core.batches import equal_length_batches, padded_batches


@pytest.mark.parametrize("budget", [1, 7, 20, 1000])
def test_batches_hold_every_source_once_within_the_budget(budget: int) -> None:
    lengths = [3, 9, 1, 4, 4, 4, 30, 9, 2]
    for make in (padded_batches, equal_length_batches):
        batches = make(lengths, batch_tokens=budget)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            sizes = [lengths[index] for index in batch]
            assert len(batch) == 1 or len(batch) * max(sizes) <= budget
            assert make is padded_batches or len(set(sizes)) == 1
    assert padded_batches([], batch_tokens=budget) == []

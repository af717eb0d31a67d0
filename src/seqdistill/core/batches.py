"""Groups sequences of similar length into batches of a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def padded_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """Indices in groups of similar length, longest first, rows x longest <= batch_tokens.

    A sequence longer than the budget stands alone. Longest first, so that memory peaks at once and
    the last batches, which workers wait for, are the short ones.
    """
    batches: list[list[int]] = []
    for index in _longest_first(lengths):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def equal_length_batches(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """The same, with sequences of one length only in each group: nothing is padded."""
    batches: list[list[int]] = []
    for index in _longest_first(lengths):
        longest = lengths[batches[-1][0]] if batches else -1
        if longest == lengths[index] and (len(batches[-1]) + 1) * longest <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))

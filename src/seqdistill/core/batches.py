"""Cuts sequences into batches within a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise


def cut_by_tokens(
    widths: Iterable[int], batch_tokens: int, *, max_rows: int | None = None
) -> list[int]:
    """Where consecutive sequences are cut so that no batch's rectangle exceeds `batch_tokens`, nor
    its rows `max_rows`.

    Batch i goes from cut i to cut i + 1; the first cut is 0 and the last the number of sequences.
    A sequence wider than the budget stands alone.
    """
    cuts, place, widest = [0], 0, 0
    for place, width in enumerate(widths, start=1):
        count, widest = place - cuts[-1], max(widest, width)
        if count > 1 and (widest * count > batch_tokens or count > (max_rows or count)):
            cuts.append(place - 1)
            widest = width
    return [*cuts, place] if place else cuts


def padded_batches(
    lengths: Sequence[int], *, batch_tokens: int, max_rows: int | None = None
) -> list[list[int]]:
    """Indices in groups of similar length, longest first, rows x longest <= batch_tokens, and no
    more rows than `max_rows`.

    A sequence longer than the budget stands alone. Longest first, so that memory peaks at once and
    the last batches, which workers wait for, are the short ones.
    """
    order = _longest_first(lengths)
    cuts = cut_by_tokens([lengths[index] for index in order], batch_tokens, max_rows=max_rows)
    return [order[start:stop] for start, stop in pairwise(cuts)]


def equal_length_batches(
    lengths: Sequence[int], *, batch_tokens: int, max_rows: int | None = None
) -> list[list[int]]:
    """The same, with sequences of one length only in each group: nothing is padded."""
    batches = []
    for length, indices in groupby(_longest_first(lengths), key=lengths.__getitem__):
        equal, size = [*indices], max(1, batch_tokens // max(1, length))
        size = min(size, max_rows or size)
        batches += [equal[start : start + size] for start in range(0, len(equal), size)]
    return batches


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])

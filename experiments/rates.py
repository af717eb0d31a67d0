"""Which learning rates to try next, and which was best on dev: a grid that grows at its ends."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from seqdistill.jobs.cells import Cell
from seqdistill.records.tables import Row

Found = Callable[[Cell], Row | None]
"""The row of a cell, where it was measured."""
Cells = Generator[Cell, None, float | None]


def chosen_rate(
    rates: Sequence[float],
    cell: Callable[[float], Cell],
    found: Found,
    score: str,
    *,
    lower_is_better: bool,
    factor: float = 2.0,
    most_more: int = 2,
) -> Cells:
    """Yields the cell of every rate that is to be tried, and returns the rate with the best score
    on dev, the first of equals; None while one of them has no row.

    While the best is the last or first of those tried, one beyond is tried, `factor` further: at
    most `most_more`, of both ends together.
    """
    tried, scores = sorted(rates), {}
    while True:
        for rate in tried:
            if rate not in scores:
                yield (trial := cell(rate))
                if (row := found(trial)) is not None:
                    scores[rate] = float(row[score])
        if len(scores) < len(tried):
            return None
        best = (min if lower_is_better else max)(tried, key=lambda rate: scores[rate])
        if len(tried) == len(rates) + most_more or best not in (tried[0], tried[-1]):
            return best
        if best == tried[-1]:
            tried.append(factor * best)
        else:
            tried.insert(0, best / factor)

"""What a metric returns: a number with its signature, or the rows whose sum gives that number.

Does not format: numbers are turned into text for people in `report` and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class Score:
    """One measured value. `low`, `high` and `confidence` are all given or all None."""

    name: str
    """What was measured: `bleu`, `chrf`, `perplexity`, ..."""
    value: float
    """In the metric's own unit: 0 to 100 for BLEU and chrF."""
    signature: str
    """Every setting that the value depends on, with the library's version."""
    low: float | None = None
    """Lower end of the interval."""
    high: float | None = None
    """Upper end of the interval."""
    confidence: float | None = None
    """Mass of the interval, such as 0.95."""


@dataclasses.dataclass(frozen=True, eq=False)
class SummedStatistics:
    """A corpus as a metric sees it: one row of numbers per segment; their sum gives the score.

    Rows of two systems may be compared and resampled together only if both belong to the same
    segments in the same order.
    """

    name: str
    """What the score measures."""
    signature: str
    """Goes into the Score."""
    rows: Float[np.ndarray, "segments statistics"]
    """One row per segment."""
    score_of_sums: Callable[[Float[np.ndarray, " statistics"]], float]
    """The value of a corpus whose rows add up to the argument."""

    def score(self) -> Score:
        """The corpus score, without an interval."""
        return Score(self.name, self.score_of_sums(self.rows.sum(axis=0)), self.signature)


def mean_statistics(
    name: str,
    signature: str,
    totals: Sequence[float | int],
    counts: Sequence[int] | None = None,
    *,
    scale: float = 1.0,
) -> SummedStatistics:
    """Rows of (total, count), one per segment: scale * sum of totals / sum of counts.

    So a segment weighs as much as its count, which is 1 where none are given. A resample in which
    nothing was counted is divided by 1. Raises ValueError if the sides differ in length or nothing
    was counted.
    """
    counts = [1] * len(totals) if counts is None else counts
    if len(totals) != len(counts) or not any(counts):
        raise ValueError(
            f"{name} needs a total and a count for every segment and something counted, got "
            f"{len(totals)} totals and {sum(counts)} counted in {len(counts)} segments"
        )

    def score_of_sums(sums: Float[np.ndarray, " statistics"]) -> float:
        return scale * float(sums[0] / max(sums[1], 1.0))

    rows = np.column_stack([totals, counts]).astype(np.float64)
    return SummedStatistics(name, signature, rows, score_of_sums)


def check_corpus(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    """Raises ValueError if the corpus is empty or the two sides differ in length."""
    if len(hypotheses) != len(references):
        raise ValueError(
            "every hypothesis needs exactly one reference, "
            f"got {len(hypotheses)} hypotheses and {len(references)} references"
        )
    if not hypotheses:
        raise ValueError("a corpus score needs at least one segment, got none")

"""Which learning rates to try next, and which was best: a grid that grows at its ends.

Knows scores on dev alone; who trains with the rates is not known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

MOST_MORE = 2
"""How many rates are tried beyond those of the grid at most."""


@dataclasses.dataclass(frozen=True)
class RateGrid:
    """The rates that are tried, and while the best of them is the last or first, some beyond.

    Its methods take what each rate tried so far reached on dev.
    """

    rates: Sequence[float]
    """Those that are tried in any case."""
    lower_is_better: bool
    """Whether lower scores are better."""
    factor: float = 2.0
    """Beyond lies the end times this, or divided by it."""
    most_more: int = MOST_MORE
    """How many beyond are tried at most, of both ends together."""

    def to_try(self, scores: Mapping[float, float]) -> list[float]:
        """The rates to try, tried or not."""
        tried = sorted(self.rates)
        while set(tried) <= scores.keys() and len(tried) < len(self.rates) + self.most_more:
            best = self._best(scores, tried)
            if best == tried[-1]:
                tried.append(self.factor * best)
            elif best == tried[0]:
                tried.insert(0, best / self.factor)
            else:
                break
        return tried

    def chosen(self, scores: Mapping[float, float]) -> float | None:
        """The rate with the best score, or None while one that is to be tried has none."""
        tried = self.to_try(scores)
        return self._best(scores, tried) if set(tried) <= scores.keys() else None

    def _best(self, scores: Mapping[float, float], rates: Sequence[float]) -> float:
        """The rate with the best score, the first of equals."""
        choose = min if self.lower_is_better else max
        return choose(rates, key=lambda rate: scores[rate])

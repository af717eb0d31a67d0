"""Which learning rates to try next, and which was best: a grid that grows at its ends.

Knows scores on dev alone; who trains with the rates is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MOST_MORE = 2
"""How many rates are tried beyond those of the grid at most."""


def rates_to_try(
    scores: Mapping[float, float],
    rates: Sequence[float],
    *,
    lower_is_better: bool,
    factor: float = 2.0,
    most_more: int = MOST_MORE,
) -> list[float]:
    """The rates to try: those given, and while the best of them is the last or first, beyond.

    `scores` is what each rate tried so far reached on dev. Beyond lies the end times `factor`, or
    divided by it, at most `most_more` times in all.
    """
    tried = sorted(rates)
    while set(tried) <= scores.keys() and len(tried) < len(rates) + most_more:
        best = best_rate(scores, tried, lower_is_better=lower_is_better)
        if best == tried[-1]:
            tried.append(factor * best)
        elif best == tried[0]:
            tried.insert(0, best / factor)
        else:
            break
    return tried


def best_rate(
    scores: Mapping[float, float], rates: Sequence[float], *, lower_is_better: bool
) -> float:
    """The rate with the best score, the first of equals."""
    choose = min if lower_is_better else max
    return choose(rates, key=lambda rate: scores[rate])


def chosen_rate(
    scores: Mapping[float, float],
    rates: Sequence[float],
    *,
    lower_is_better: bool,
    factor: float = 2.0,
    most_more: int = MOST_MORE,
) -> float | None:
    """The rate with the best score, or None while one that is to be tried has none."""
    tried = rates_to_try(
        scores, rates, lower_is_better=lower_is_better, factor=factor, most_more=most_more
    )
    if not set(tried) <= scores.keys():
        return None
    return best_rate(scores, tried, lower_is_better=lower_is_better)

"""Means and Student's t intervals over seeds: the luck of training, not that of the test set."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed exactly, so that the order does not matter.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value, got none")
    return math.fsum(values) / len(values)


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float]:
    """The (low, high) of mean ± t s / sqrt(n), with t of n - 1 degrees and s over n - 1.

    Two values already give an interval, a very wide one (t = 12.7). Equal values give one of no
    width. Raises ValueError for fewer than two values.

    Source: Student 1908.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a t interval needs at least two values, got {n}")
    centre = mean(values)
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1, confidence) * deviation / math.sqrt(n)
    return centre - half, centre + half


def t_quantile(degrees: int, confidence: float) -> float:
    """The t with P(|T| <= t) = confidence, for a whole number of degrees of freedom.

    Halves an interval of angles, tan(angle) = t / sqrt(degrees), down to double precision.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(angle)).

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.
    """
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    total *= math.sin(angle)
    return (angle + total) * 2 / math.pi if odd else total

"""What a few repetitions tell: means, Student's t intervals, differences of paired seeds.

Numbers in, numbers out. Knows neither rows nor methods, and never hides how few repetitions there
were: an estimate carries its n and where its interval comes from.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from scipy import stats

CONFIDENCE = 0.95

Basis = Literal["seeds", "test set", "none"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with the interval that its `basis` gives; `low` and `high` are None without one.

    `seeds`: Student's t over n repetitions on one test set, so it covers the luck of training.
    `test set`: resampled sentences of one repetition, so it covers the luck of the test set.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    basis: Basis


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed exactly, so that the order of the values does not matter.

    Raises ValueError for no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value, got none")
    return math.fsum(values) / len(values)


def t_interval(values: Sequence[float], *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The (low, high) of mean ± t s / sqrt(n), with t of n - 1 degrees and s over n - 1.

    Two values already give an interval, a very wide one (t = 12.7). Equal values give one of no
    width. Raises ValueError for fewer than two values.

    Source: Student 1908.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a t interval needs at least two values, got {n}")
    centre = mean(values)
    spread = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (n - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2.0, n - 1)) * spread / math.sqrt(n)
    return centre - half, centre + half


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean with its t interval; without an interval when there is but one value."""
    if len(values) < 2:
        return Estimate(mean(values), None, None, len(values), "none")
    low, high = t_interval(values)
    return Estimate(mean(values), low, high, len(values), "seeds")


def paired_differences(
    system: Mapping[int | None, float], base: Mapping[int | None, float]
) -> tuple[float, ...]:
    """system - base for every seed that both have, in the order of the seeds.

    Pairing takes out what a seed does to both alike: the order of the data, the first weights.
    """
    shared = sorted(system.keys() & base.keys(), key=lambda seed: (seed is not None, seed or 0))
    return tuple(system[seed] - base[seed] for seed in shared)


def difference_of_singles(system: Estimate, base: Estimate) -> Estimate:
    """system - base of one repetition each, with the two intervals added as if independent.

    Half widths add in squares, each side by itself. On one test set the two are in truth
    correlated, so this is wider than a paired interval. Without either interval there is none.
    """
    value = system.value - base.value
    if system.low is None or system.high is None or base.low is None or base.high is None:
        return Estimate(value, None, None, 1, "none")
    below = math.hypot(system.value - system.low, base.high - base.value)
    above = math.hypot(system.high - system.value, base.value - base.low)
    return Estimate(value, value - below, value + above, 1, "test set")


def exponential(logarithm: Estimate) -> Estimate:
    """The estimate of a ratio from that of its logarithm: a geometric mean with its interval."""
    low = None if logarithm.low is None else math.exp(logarithm.low)
    high = None if logarithm.high is None else math.exp(logarithm.high)
    return Estimate(math.exp(logarithm.value), low, high, logarithm.n, logarithm.basis)


def negated(found: Estimate) -> Estimate:
    """The same estimate with the other sign: a loss for a gain."""
    low = None if found.high is None else -found.high
    high = None if found.low is None else -found.low
    return Estimate(-found.value, low, high, found.n, found.basis)

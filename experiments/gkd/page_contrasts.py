"""Weighted sums of several systems' scores, seed by seed: what claims about more than two need."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.gkd.page_rows import Students
from experiments.harness.reading import Runs, number
from experiments.harness.statistics import Estimate, over_seeds

Weighted = Sequence[tuple[Runs, float]]
"""Systems and how much each counts; where weights add up to 0, the sum is a difference."""


def contrast(students: Students, systems: Weighted, key: str) -> Estimate | None:
    """The mean over seeds of the weighted sum, positive is better, with its t interval.

    Over the seeds that all systems have: what a seed does to all alike drops out where the weights
    add up to 0. Without an interval for one seed; None where the systems share none.
    """
    found = []
    by_seed = [{row.get("seed"): number(row, key) for row in runs} for runs, _ in systems]
    shared = set.intersection(*(set(of_system) for of_system in by_seed)) if by_seed else set()
    for seed in sorted(shared, key=str):
        values = [of_system[seed] for of_system in by_seed]
        if all(value is not None for value in values):
            terms = zip(values, systems, strict=True)
            found.append(sum(weight * value for value, (_, weight) in terms if value is not None))
    if not found:
        return None
    sign = students.shown.measure.sign
    return over_seeds([sign * value for value in found])

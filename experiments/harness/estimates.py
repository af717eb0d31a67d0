"""From runs to estimates: a system's score, its gain over another, its gap, a ratio of speeds.

Decides which interval a number gets; the formulas are `statistics`'s. Two or more seeds give a t
interval over them, a single one that of the test set. Writes no text.
"""

from __future__ import annotations

import dataclasses
import math

from experiments.harness.reading import TEACHER, Measure, Row, Runs, number
from experiments.harness.statistics import (
    Estimate,
    difference_of_singles,
    exponential,
    mean,
    negated,
    over_seeds,
    paired_differences,
)


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One number of one system: the key, and the runs whose rows hold it."""

    runs: Runs
    key: str


def estimate(quantity: Quantity) -> Estimate | None:
    """The mean over seeds with its interval; None when no run has the number."""
    return _estimate(_by_seed(quantity), quantity.key)


def average(runs: Runs, key: str) -> float | None:
    """The mean over the runs that have the number; None when none has."""
    values = [value for row in runs if (value := number(row, key)) is not None]
    return mean(values) if values else None


def difference(system: Quantity, base: Quantity) -> Estimate | None:
    """system - base over the seeds that both have; None when they share none.

    A teacher that was trained once is the base of every seed.
    """
    rows, base_rows = _by_seed(system), _by_seed(base)
    if len(base_rows) == 1 and _is_fixed(base.runs):
        (only,) = base_rows.values()
        base_rows = dict.fromkeys(rows, only)
    shared = rows.keys() & base_rows.keys()
    if not shared:
        return None
    if len(shared) == 1:
        (seed,) = shared
        return _of_singles(rows[seed], system.key, base_rows[seed], base.key)
    return over_seeds(
        paired_differences(
            {seed: float(rows[seed][system.key]) for seed in rows},
            {seed: float(base_rows[seed][base.key]) for seed in base_rows},
        )
    )


def _of_singles(row: Row, key: str, base: Row, base_key: str) -> Estimate:
    """The difference of two runs: by resampling the test set for both where the rows have that."""
    found = difference_of_singles(_single(row, key), _single(base, base_key))
    for own, own_key, other, other_key, sign in (
        (row, key, base, base_key, 1.0),
        (base, base_key, row, key, -1.0),
    ):
        versus = own.get("versus", {}).get(other.get("name"), {})
        known = versus.get(f"{own_key} - {other_key}")
        if known is not None:
            low, high = sorted(sign * end for end in known)
            return Estimate(found.value, low, high, 1, "test set")
    return found


def gain(system: Runs, base: Runs, key: str, *, sign: int) -> Estimate | None:
    """By how much the system is better than the base: positive is better, whatever the measure."""
    first, second = Quantity(system, key), Quantity(base, key)
    return difference(first, second) if sign > 0 else difference(second, first)


def gain_over_teacher(system: Quantity, teacher: Quantity, *, measure: Measure) -> Estimate | None:
    """By how much the system is better than the teacher, each under its own kind of decoding."""
    found = difference(system, teacher)
    return found if found is None or measure.sign > 0 else negated(found)


def gap(runs: Runs, measure: Measure) -> Estimate | None:
    """By how much beam search is better than greedy decoding of the same system.

    A single run takes its interval from the row's own paired bootstrap, `greedy_beam_gap_low` and
    `_high`, which count a gain of beam search as positive, too.
    """
    high, low = Quantity(runs, measure.beam), Quantity(runs, measure.greedy)
    found = difference(high, low) if measure.sign > 0 else difference(low, high)
    if found is None or found.n > 1:
        return found
    (row,) = (row for row in runs if number(row, measure.beam) is not None)
    start, end = (number(row, f"greedy_beam_gap_{side}") for side in ("low", "high"))
    if start is None or end is None:
        return found
    return Estimate(found.value, start, end, 1, "test set")


def ratio(system: Quantity, base: Quantity) -> Estimate | None:
    """system / base as a geometric mean over seeds: differences of logarithms."""
    logarithms = [Quantity(_in_logarithms(quantity), quantity.key) for quantity in (system, base)]
    found = difference(logarithms[0], logarithms[1])
    return None if found is None else exponential(found)


def _in_logarithms(quantity: Quantity) -> Runs:
    key = quantity.key
    rows: list[Row] = []
    for row in quantity.runs:
        values = {k: number(row, k) for k in (key, f"{key}_low", f"{key}_high")}
        logs = {k: math.log(v) for k, v in values.items() if v is not None and v > 0.0}
        rows.append({"seed": row.get("seed"), "method": row.get("method"), **logs})
    return tuple(rows)


def _is_fixed(runs: Runs) -> bool:
    return all(row.get("method") == TEACHER for row in runs)


def _by_seed(quantity: Quantity) -> dict[int | None, Row]:
    return {row.get("seed"): row for row in quantity.runs if number(row, quantity.key) is not None}


def _estimate(rows: dict[int | None, Row], key: str) -> Estimate | None:
    if not rows:
        return None
    if len(rows) == 1:
        (row,) = rows.values()
        return _single(row, key)
    return over_seeds([float(row[key]) for row in rows.values()])


def _single(row: Row, key: str) -> Estimate:
    low, high = number(row, f"{key}_low"), number(row, f"{key}_high")
    if low is None or high is None:
        return Estimate(float(row[key]), None, None, 1, "none")
    return Estimate(float(row[key]), low, high, 1, "test set")

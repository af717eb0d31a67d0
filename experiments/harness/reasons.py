"""Figures that fail a claim, beside the same figures of other students. Knows no claim.

A figure moves nearer to what its claim wants or farther from it only where the two intervals lie
apart: nothing more is asked of a student than its claim asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from experiments.harness.verdicts import Part, Verdict


def compared(
    parts: Sequence[Part], others: Iterable[tuple[str, Sequence[Part]]]
) -> Iterator[tuple[str, str, str, str, str]]:
    """For each failing figure with an estimate and each other student that has the same figure:
    its label, the figure, what is other, the figure there, and how it moved.
    """
    there = [(name, {part.label: part for part in found}) for name, found in others]
    for part in parts:
        if part.verdict is not Verdict.FAILS or part.estimate is None:
            continue
        for name, found in there:
            then = found.get(part.label)
            if then is not None and then.verdict is not Verdict.MISSING and then != part:
                yield part.label, part.figure, name, then.figure, _moved(part, then)


def _moved(part: Part, then: Part) -> str:
    if then.verdict is Verdict.HOLDS:
        return "enough"
    first, second = _interval(part), _interval(then)
    if first is None or second is None or (first[0] <= second[1] and second[0] <= first[1]):
        return "not told apart"
    return "nearer" if _missing(then) < _missing(part) else "farther"


def _interval(part: Part) -> tuple[float, float] | None:
    found = part.estimate
    if found is None or found.low is None or found.high is None:
        return None
    return found.low, found.high


def _missing(part: Part) -> float:
    """How far the estimate lies outside of what is wanted."""
    if part.estimate is None or part.wanted is None:
        raise ValueError(f"{part.label!r} needs an estimate and ends that it should lie between")
    low, high = part.wanted
    return max(low - part.estimate.value, part.estimate.value - high, 0.0)

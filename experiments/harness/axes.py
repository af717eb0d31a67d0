"""The two kinds of axes that the plots share: quality, better up or right, and logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.harness.reading import Measure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def quality_axis(axes: Axes, measure: Measure, which: str) -> None:
    """Names the axis of quality and turns it round where less is better."""
    arrow = "better →" if measure.sign > 0 else "less is better →"
    axis, label = (axes.xaxis, axes.set_xlabel) if which == "x" else (axes.yaxis, axes.set_ylabel)
    label(f"{measure.name} ({arrow})")
    axis.set_inverted(measure.sign < 0)


def plain_log_axis(axes: Axes, which: str, values: Sequence[float | None]) -> None:
    """A logarithmic axis with plain numbers, as many as fit."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    known = [value for value in values if value]
    if not known:
        return
    low, high = min(known), max(known)
    room = (high / low) ** 0.12 * 1.05
    axis, limits, scale = (
        (axes.xaxis, axes.set_xlim, axes.set_xscale)
        if which == "x"
        else (axes.yaxis, axes.set_ylim, axes.set_yscale)
    )
    scale("log")
    limits(low / room, high * room)
    ticks = _ticks(low / room, high * room)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_number(value)))
    axis.set_minor_locator(NullLocator())


def _plain_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.4g}"


_MOST_TICKS = 8
_STEPS = (
    (1.0,),
    (1.0, 3.0),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    *(tuple(1.0 + step / parts for step in range(9 * parts)) for parts in (2, 5, 10, 20, 100)),
)
"""Multiples of powers of ten that may have a tick, from coarse to fine."""


def _ticks(low: float, high: float) -> list[float]:
    """The finest ticks between the ends that are not more than fit."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    found: list[float] = []
    for steps in _STEPS:
        every = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [value for value in every if low <= value <= high]
        if found and len(inside) > _MOST_TICKS:
            break
        found = inside
    return found

"""The two kinds of axes that the plots share: quality, better up or right, and logarithms."""

from __future__ import annotations

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
    from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

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
    span = high / low
    locator: Locator = MaxNLocator(_MOST_TICKS)
    if span > 1.6:
        steps = (1, 2, 5) if span > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8)
        locator = LogLocator(subs=steps, numticks=30)
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_number(value)))
    axis.set_minor_locator(NullLocator())


def _plain_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.4g}"


_MOST_TICKS = 7
"""Of an axis that is too short for powers of ten and their simple multiples."""

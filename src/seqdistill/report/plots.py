"""A chart as SVG text: dots and curves over two axes, each linear, logarithmic or bare.

No text of the user's is drawn: names stand in the page's own legend, where any script and
direction works. Does not know systems: points and lines come ready.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from seqdistill.report import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "down": "v",
    "hexagon": "h",
}
Scale = Literal["linear", "log", "steps", "bare"]
"""`steps`: whole numbers; `bare`: without ticks, a column a system."""

_MARKS_A_LINE = 6
_DASHES = (0, (4, 3))


@dataclasses.dataclass(frozen=True)
class Look:
    """How one system appears in every chart: colour number (CSS variable --series-N) and marker."""

    colour: int
    marker: str


@dataclasses.dataclass(frozen=True)
class Point:
    """One measurement; hollow where it is the plainer of two. Bounds draw an error bar."""

    x: float
    y: float
    filled: bool = True
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Series:
    """One system's points, joined by a thin line; or its curve."""

    name: str
    look: Look
    points: Sequence[Point]
    style: Literal["dots", "curve", "dashed"] = "dots"


@dataclasses.dataclass(frozen=True)
class Frame:
    """The axes of a chart; `level` is a dashed line across."""

    x: str
    y: str
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    level: float | None = None
    small: bool = False


def draw(name: str, series: Sequence[Series], frame: Frame) -> str:
    """The chart as SVG; ids in it begin with its name. On a log scale values must be positive."""
    window = smoothing(series)
    points = [point for each in series for point in each.points]
    with svg.styled(name):
        figure, axes = svg.empty(svg.SMALL if frame.small else svg.FULL)
        axes.margins(x=0.03 if frame.x_scale == "steps" else 0.12, y=0.1)
        if frame.x_scale == "log":
            axes.set_xscale("log")
            axes.set_xlim(min(p.x for p in points) / 1.35, max(p.x for p in points) * 1.35)
        axes.set_yscale("log" if frame.y_scale == "log" else "linear")
        axes.set_xlabel(frame.x)
        axes.set_ylabel(frame.y)
        if frame.level is not None:
            axes.axhline(frame.level, color=svg.MUTED, linewidth=0.8, linestyle=_DASHES, zorder=1)
        for each in series:
            (_draw_dots if each.style == "dots" else _draw_curve)(axes, each, window)
        _scale(axes.xaxis, frame.x_scale, [point.x for point in points])
        _scale(axes.yaxis, frame.y_scale, [point.y for point in points])
        if frame.y_scale == "linear":
            _end_at_zero(axes, [point.y for point in points])
        return svg.text_of(figure, name)


def smoothing(series: Sequence[Series]) -> int:
    """How many points the running mean of curves is over: a twenty-fifth of the longest."""
    return max([1, *(len(each.points) // 25 for each in series if each.style != "dots")])


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    recent = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(each) / len(each) for each in recent]


def _end_at_zero(axes: Axes, values: Sequence[float]) -> None:
    """What is never negative has no negative scale; where all is 0 the scale goes up to 1."""
    if not any(values):
        axes.set_ylim(-0.06, 1.0)
    elif min(values) >= 0.0 > axes.get_ylim()[0]:
        axes.set_ylim(bottom=-0.05 * axes.get_ylim()[1])


def _draw_dots(axes: Axes, series: Series, _window: int) -> None:
    colour = svg.stand_in(series.look.colour)
    for point in series.points:
        if point.low is not None and point.high is not None:
            axes.vlines(
                point.x, point.low, point.high, color=colour, linewidth=1.4, alpha=0.75, zorder=3
            )
        axes.plot(
            [point.x],
            [point.y],
            color=colour,
            marker=MARKERS[series.look.marker],
            markersize=7.5,
            markerfacecolor=colour if point.filled else svg.SURFACE,
            markeredgecolor=colour,
            markeredgewidth=1.4,
            zorder=4,
        )
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    axes.plot(x, y, color=colour, linewidth=1.0, zorder=2)


def _draw_curve(axes: Axes, series: Series, window: int) -> None:
    colour, solid = svg.stand_in(series.look.colour), series.style == "curve"
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    if window > 1:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.25)
        y = running_mean(y, window)
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.8 if solid else 1.2,
        linestyle="-" if solid else _DASHES,
        # A few markers, so that more curves than there are colours can be told apart.
        marker=MARKERS[series.look.marker],
        markevery=-(-len(x) // _MARKS_A_LINE),
        markersize=4.5,
    )


def _scale(axis: Axis, scale: Scale, values: Sequence[float]) -> None:
    """Log scales have ticks at 1, 2 and 5 times powers of ten, written out: 200, 500, 1,000."""
    from matplotlib.ticker import (
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
        StrMethodFormatter,
    )

    if scale == "bare":
        axis.set_major_locator(NullLocator())
    elif scale == "steps":
        alone = len(set(values)) == 1
        axis.set_major_locator(
            FixedLocator(values[:1])
            if alone
            else MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10])
        )
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    elif scale == "log":
        ratio = max(values) / min(values)
        few = (1.0, 2.0, 5.0) if ratio < 100.0 else (1.0,)
        steps = few if ratio > 2.5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(base=10.0, subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())

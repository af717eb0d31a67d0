"""Charts as SVG text: dots on a plane, columns, curves.

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

_MARKS_A_LINE = 6


@dataclasses.dataclass(frozen=True)
class Look:
    """How one system appears in every chart: colour number (CSS variable --series-N) and marker."""

    colour: int
    marker: str

    @property
    def stand_in(self) -> str:
        """The colour that matplotlib draws with."""
        return svg.stand_in(self.colour)


@dataclasses.dataclass(frozen=True)
class Dot:
    """One measurement, hollow where it is the plainer of two: greedy, or the lowest temperature.

    Bounds draw an error bar.
    """

    look: Look
    x: float
    y: float
    filled: bool
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    """One system's values over updates or positions."""

    look: Look
    points: Sequence[tuple[float, float]]
    style: Literal["solid", "dashed"] = "solid"


def scatter(
    name: str, dots: Sequence[Dot], *, x_label: str, y_label: str, level: float | None
) -> str:
    """SVG of a quality over a cost on a logarithmic axis; `level` is drawn as a dashed line."""
    with svg.styled(name):
        figure, axes = svg.empty(svg.FULL)
        axes.set_xscale("log")
        _draw_level(axes, level)
        _draw_dots(axes, dots)
        low, high = min(dot.x for dot in dots), max(dot.x for dot in dots)
        axes.set_xlim(low / 1.35, high * 1.35)
        _plain_log_ticks(axes.xaxis, [low, high])
        axes.margins(y=0.12)
        _open_at_zero(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return svg.text_of(figure, name)


def plane(name: str, dots: Sequence[Dot], *, x_label: str, y_label: str) -> str:
    """SVG of one quantity over another, both on plain axes."""
    with svg.styled(name):
        figure, axes = svg.empty(svg.FULL)
        _draw_dots(axes, dots)
        axes.margins(x=0.12, y=0.12)
        _open_at_zero(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return svg.text_of(figure, name)


def columns(name: str, dots: Sequence[Dot], *, y_label: str, level: float) -> str:
    """SVG of one quantity, a column a system at x = 0, 1, 2, ..., in the order of the legend."""
    with svg.styled(name):
        figure, axes = svg.empty(svg.FULL)
        _draw_level(axes, level)
        _draw_dots(axes, dots)
        axes.set_xticks([])
        axes.margins(x=0.12, y=0.12)
        _open_at_zero(axes)
        axes.set_ylabel(y_label)
        return svg.text_of(figure, name)


def curves(
    name: str, lines: Sequence[Line], *, x_label: str, y_label: str, marked: bool, window: int
) -> str:
    """SVG of values over steps; with a `window` above 1 their running mean is drawn over them."""
    with svg.styled(name):
        figure, axes = svg.empty(svg.FULL)
        for line in lines:
            _draw_line(axes, line, marks_every=1 if marked else None, window=window)
        axes.margins(x=0.02, y=0.08)
        _open_at_zero(axes)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return svg.text_of(figure, name)


def over_updates(
    name: str,
    lines: Sequence[Line],
    *,
    y_label: str,
    window: int,
    size: tuple[float, float],
    level: float | None = None,
    scale: Literal["linear", "log"] = "linear",
) -> str:
    """SVG of values over updates, of the size `svg.FULL` or `svg.SMALL`.

    Each line has a few markers, so that as many lines as there are markers times colours can be
    told apart. `level` is drawn as a dashed line. On a log scale all values must be positive.
    """
    from matplotlib.ticker import FixedLocator, MaxNLocator, StrMethodFormatter

    with svg.styled(name):
        figure, axes = svg.empty(size)
        axes.set_yscale(scale)
        _draw_level(axes, level)
        for line in lines:
            marks_every = -(-len(line.points) // _MARKS_A_LINE)
            _draw_line(axes, line, marks_every=marks_every, window=window)
        axes.margins(x=0.03, y=0.1)
        updates = {x for line in lines for x, _ in line.points}
        few = sorted(updates) if len(updates) == 1 else None
        axes.xaxis.set_major_locator(
            FixedLocator(few) if few else MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10])
        )
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if min(y for line in lines for _, y in line.points) >= 0.0 > axes.get_ylim()[0]:
            axes.set_ylim(bottom=-0.05 * axes.get_ylim()[1])  # no room for what cannot be
        if scale == "log":
            _plain_log_ticks(axes.yaxis, [y for line in lines for _, y in line.points])
        axes.set_xlabel("updates")
        axes.set_ylabel(y_label)
        return svg.text_of(figure, name)


def smoothing(lines: Sequence[Line]) -> int:
    """How many points the running mean of such lines is over: a twenty-fifth of the longest."""
    return max(1, max((len(line.points) for line in lines), default=0) // 25)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means


def _open_at_zero(axes: Axes) -> None:
    """Where all values are 0 the scale goes up to 1, and not as far below as above."""
    if not any(axes.dataLim.intervaly):
        axes.set_ylim(-0.06, 1.0)
    if not any(axes.dataLim.intervalx):
        axes.set_xlim(-0.06, 1.0)


def _draw_line(axes: Axes, line: Line, *, marks_every: int | None, window: int) -> None:
    x = [update for update, _ in line.points]
    y = [value for _, value in line.points]
    colour = line.look.stand_in
    marks_every = 1 if len(y) == 1 else marks_every  # a lone point is no line
    if window > 1:
        axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.25)
        y = running_mean(y, window)
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.8 if line.style == "solid" else 1.2,
        linestyle="-" if line.style == "solid" else (0, (4, 2)),
        marker=MARKERS[line.look.marker] if marks_every else None,
        markevery=marks_every,
        markersize=4.5,
    )


def _draw_level(axes: Axes, level: float | None) -> None:
    if level is not None:
        axes.axhline(level, color=svg.MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)


def _draw_dots(axes: Axes, dots: Sequence[Dot]) -> None:
    """The dots, those of one system joined by a thin line."""
    for dot in dots:
        _draw_dot(axes, dot)
    for look in {dot.look: None for dot in dots}:
        pair = [(dot.x, dot.y) for dot in dots if dot.look == look]
        axes.plot(*zip(*pair, strict=True), color=look.stand_in, linewidth=1.0, zorder=2)


def _draw_dot(axes: Axes, dot: Dot) -> None:
    colour = dot.look.stand_in
    if dot.low is not None and dot.high is not None:
        axes.vlines(dot.x, dot.low, dot.high, color=colour, linewidth=1.4, alpha=0.75, zorder=3)
    axes.plot(
        [dot.x],
        [dot.y],
        color=colour,
        marker=MARKERS[dot.look.marker],
        markersize=7.5,
        markerfacecolor=colour if dot.filled else svg.SURFACE,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        zorder=4,
    )


def _plain_log_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out: 200, 500, 1,000."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ratio = max(values) / min(values)
    few = (1.0, 2.0, 5.0) if ratio < 100.0 else (1.0,)
    steps = few if ratio > 2.5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(base=10.0, subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())

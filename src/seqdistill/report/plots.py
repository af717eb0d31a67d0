"""A chart as SVG text: dots and curves over two axes, each linear, logarithmic or bare.

No text of the user's is drawn: names stand in the page's own legend, where any script and
direction works. matplotlib draws with stand-in colours, each of which becomes a CSS variable of
the page. Equal inputs give equal bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_FIRST_COLOUR = 0x10  # not 0: matplotlib leaves black out of the SVG, as the default
# Stand-in colours; the page defines the variables for both schemes.
INK, MUTED, GRID, SURFACE = "#0000f0", "#0000f1", "#0000f2", "#0000f3"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"}

FULL, SMALL = (5.2, 3.3), (3.4, 2.2)
"""Sizes in inches. The page stretches a chart to its place: in a small one the text is as large."""

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
    with styled(name):
        figure, axes = empty(SMALL if frame.small else FULL)
        axes.margins(x=0.03 if frame.x_scale == "steps" else 0.12, y=0.1)
        if frame.x_scale == "log":
            axes.set_xscale("log")
            axes.set_xlim(min(p.x for p in points) / 1.35, max(p.x for p in points) * 1.35)
        axes.set_yscale("log" if frame.y_scale == "log" else "linear")
        axes.set_xlabel(frame.x)
        axes.set_ylabel(frame.y)
        if frame.level is not None:
            axes.axhline(frame.level, color=MUTED, linewidth=0.8, linestyle=_DASHES, zorder=1)
        for each in series:
            (_draw_dots if each.style == "dots" else _draw_curve)(axes, each, window)
        _scale(axes.xaxis, frame.x_scale, [point.x for point in points])
        _scale(axes.yaxis, frame.y_scale, [point.y for point in points])
        if frame.x_scale == "linear":
            axes.set_xlim(_ending_at_zero(axes.get_xlim(), [point.x for point in points]))
        if frame.y_scale == "linear":
            axes.set_ylim(_ending_at_zero(axes.get_ylim(), [point.y for point in points]))
        return text_of(figure, name)


def smoothing(series: Sequence[Series]) -> int:
    """How many points the running mean of curves is over: a twenty-fifth of the longest."""
    return max([1, *(len(each.points) // 25 for each in series if each.style != "dots")])


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    recent = [values[max(0, end - window) : end] for end in range(1, len(values) + 1)]
    return [sum(each) / len(each) for each in recent]


def _ending_at_zero(limits: tuple[float, float], values: Sequence[float]) -> tuple[float, float]:
    """What is never negative has no negative scale; where all is 0 the scale goes up to 1."""
    low, high = limits
    if not any(values):
        return -0.06, 1.0
    return (-0.05 * high, high) if min(values) >= 0.0 > low else limits


def _draw_dots(axes: Axes, series: Series, _window: int) -> None:
    colour = stand_in(series.look.colour)
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
            markerfacecolor=colour if point.filled else SURFACE,
            markeredgecolor=colour,
            markeredgewidth=1.4,
            zorder=4,
        )
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    axes.plot(x, y, color=colour, linewidth=1.0, zorder=2)


def _draw_curve(axes: Axes, series: Series, window: int) -> None:
    colour, solid = stand_in(series.look.colour), series.style == "curve"
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
        # Where less than two ticks would be in sight, matplotlib takes a linear scale's.
        steps = few if ratio > 3.5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(base=10.0, subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())


def stand_in(series: int) -> str:
    """The colour that matplotlib draws --series-N with."""
    return f"#0000{_FIRST_COLOUR + series:02x}"


@contextlib.contextmanager
def styled(name: str) -> Iterator[None]:
    """Within, matplotlib draws as the page wants it; `name` makes the ids of equal charts equal."""
    # Imported here: the package must load in milliseconds, also for those who draw nothing.
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "axes.formatter.useoffset": False,
        "svg.hashsalt": name,
        "font.size": 8.5,
        "text.color": INK,
        "text.parse_math": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": MUTED,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "xtick.major.pad": 5.0,
        "ytick.major.pad": 5.0,
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
    }
    with matplotlib.rc_context(settings):
        yield


def empty(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of `size` inches with axes and nothing in them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", visible=False)
    return figure, axes


def text_of(figure: Figure, name: str) -> str:
    """The SVG, with ids that begin with the chart's name and with the page's colours."""
    buffer = io.StringIO()
    # Without metadata: dates would make equal inputs differ, and addresses are not ours to state.
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Several charts share a page: every id gets the chart's name in front.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"#0000f[0-3]", lambda found: f"var({_VARIABLES[found[0]]})", text)
    text = re.sub(
        r"#0000([1-9a-e][0-9a-f])",
        lambda found: f"var(--series-{int(found[1], 16) - _FIRST_COLOUR})",
        text,
    )
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()

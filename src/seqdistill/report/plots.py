"""Charts as SVG text that takes its colours from the page, so that it is readable by day and night.

matplotlib draws with stand-in colours, each of which becomes a CSS variable. No text of the user's
is drawn: names stand in the page's own legend, where any script and direction works. Equal
inputs give equal bytes. Does not know systems: points and lines come ready.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "down": "v",
    "hexagon": "h",
}

_FIRST_COLOUR = 0x10  # not 0: matplotlib leaves black out of the SVG, as the default
# Stand-in colours; the page defines the variables for both schemes.
_INK, _MUTED, _GRID, _SURFACE = "#0000f0", "#0000f1", "#0000f2", "#0000f3"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid", _SURFACE: "--surface"}


@dataclasses.dataclass(frozen=True)
class Look:
    """How one system appears in every chart: colour number (CSS variable --series-N) and marker."""

    colour: int
    marker: str

    @property
    def stand_in(self) -> str:
        """The colour that matplotlib draws with."""
        return f"#0000{_FIRST_COLOUR + self.colour:02x}"


@dataclasses.dataclass(frozen=True)
class Dot:
    """One measurement; `filled` is beam search, hollow is greedy. Bounds draw an error bar."""

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


def scatter(
    name: str, dots: Sequence[Dot], *, x_label: str, y_label: str, level: float | None
) -> str:
    """SVG of a quality over a cost on a logarithmic axis; `level` is drawn as a dashed line."""
    with _styled(name):
        figure, axes = _axes()
        axes.set_xscale("log")
        _draw_level(axes, level)
        _draw_dots(axes, dots)
        _plain_log_ticks(axes, [dot.x for dot in dots])
        axes.margins(y=0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, name)


def plane(name: str, dots: Sequence[Dot], *, x_label: str, y_label: str) -> str:
    """SVG of one quantity over another, both on plain axes."""
    with _styled(name):
        figure, axes = _axes()
        _draw_dots(axes, dots)
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, name)


def columns(name: str, dots: Sequence[Dot], *, y_label: str, level: float) -> str:
    """SVG of one quantity, a column a system at x = 0, 1, 2, ..., in the order of the legend."""
    with _styled(name):
        figure, axes = _axes()
        _draw_level(axes, level)
        _draw_dots(axes, dots)
        axes.set_xticks([])
        axes.margins(x=0.12, y=0.12)
        axes.set_ylabel(y_label)
        return _svg(figure, name)


def curves(
    name: str, lines: Sequence[Line], *, x_label: str, y_label: str, marked: bool, window: int
) -> str:
    """SVG of values over steps; with a `window` above 1 their running mean is drawn over them."""
    with _styled(name):
        figure, axes = _axes()
        for line in lines:
            x = [update for update, _ in line.points]
            y = [value for _, value in line.points]
            colour = line.look.stand_in
            if window > 1:
                axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.25)
                y = running_mean(y, window)
            axes.plot(
                x,
                y,
                color=colour,
                linewidth=1.8,
                marker=MARKERS[line.look.marker] if marked else None,
                markersize=4.5,
            )
        axes.margins(x=0.02, y=0.08)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, name)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window` - 1 before it."""
    means = []
    for end in range(1, len(values) + 1):
        recent = values[max(0, end - window) : end]
        means.append(sum(recent) / len(recent))
    return means


def _draw_level(axes: Axes, level: float | None) -> None:
    if level is not None:
        axes.axhline(level, color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)


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
        markerfacecolor=colour if dot.filled else _SURFACE,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        zorder=4,
    )


def _plain_log_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, written out: 200, 500, 1,000."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = min(values), max(values)
    axes.set_xlim(low / 1.35, high * 1.35)
    steps = (1.0, 2.0, 5.0) if high / low > 2.5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axes.xaxis.set_major_locator(LogLocator(base=10.0, subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextlib.contextmanager
def _styled(name: str) -> Iterator[None]:
    # Imported here: the room must load in milliseconds, also for those who draw nothing.
    import matplotlib

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 8.5,
        "text.color": _INK,
        "text.parse_math": False,
        "axes.edgecolor": _MUTED,
        "axes.labelcolor": _MUTED,
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": _GRID,
        "grid.linewidth": 0.7,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
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


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.3), layout="constrained")
    axes = figure.subplots()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", visible=False)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
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

"""Plots of the papers' pages, as SVG with legends. Equal inputs give equal bytes.

A light ground is drawn, so that dark pages show the plots too. Better is always up or right.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.estimates import Estimate, Measure, Runs, average

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, told apart by the colour-blind; markers say the same once more.
COLOURS = ("#0072b2", "#b87700", "#00795a", "#a8427a", "#7a7a7a", "#000000", "#d55e00", "#56b4e9")
MARKERS = "osD^vPX*"
_STYLE = {
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.parse_math": False,
    "axes.titlesize": 9.5,
    "axes.facecolor": "#fcfcfa",
    "figure.facecolor": "#fcfcfa",
    "savefig.facecolor": "#fcfcfa",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
}
Points = Sequence[tuple[float, Estimate | None]]


class Plot:
    """One figure while it is drawn; `image` is what it became."""

    def __init__(self, figure: Figure, axes: Sequence[Axes]) -> None:
        self.figure, self.axes, self.image = figure, axes, b""


@contextlib.contextmanager
def plot(name: str, columns: int = 1, *, size: tuple[float, float] = (7.0, 3.6)) -> Iterator[Plot]:
    """A figure with its axes side by side, which is an SVG when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        drawn = Plot(figure, list(figure.subplots(1, columns, squeeze=False)[0]))
        yield drawn
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
        lines = buffer.getvalue().decode("utf-8").splitlines()
        drawn.image = ("\n".join(line.rstrip() for line in lines) + "\n").encode("utf-8")


def look(place: int) -> dict[str, Any]:
    """Colour and marker of the system at that place."""
    return {"color": COLOURS[place % 8], "marker": MARKERS[(place + place // 8) % 8]}


def legend(axes: Axes) -> None:
    """The names of what is drawn, right of the axes."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def quality(axes: Axes, measure: Measure, which: str = "y") -> None:
    """Names the axis of quality and turns it round where less is better."""
    label = f"{measure.name} ({'better' if measure.sign > 0 else 'less is better'} →)"
    axes.set(**{f"{which}label": label})
    (axes.yaxis if which == "y" else axes.xaxis).set_inverted(measure.sign < 0)


def lines(axes: Axes, systems: Mapping[str, Points], *, log: bool = False) -> None:
    """A line a system with intervals; `log` for a logarithmic axis with plain numbers."""
    for place, (name, points) in enumerate(systems.items()):
        known = [(x, found) for x, found in points if found is not None]
        values = [found.value for _, found in known]
        ends = [
            (0.0, 0.0) if f.low is None or f.high is None else (f.value - f.low, f.high - f.value)
            for _, f in known
        ]
        bars = [[low for low, _ in ends], [high for _, high in ends]]
        axes.errorbar(
            [x for x, _ in known], values, yerr=bars, label=name, elinewidth=0.9, **look(place)
        )
    if log:
        xs = sorted({x for points in systems.values() for x, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(xs, [f"{x:,.0f}" if x > 1 else f"{100 * x:.0f} %" for x in xs])
        axes.minorticks_off()
    legend(axes)


def level(axes: Axes, value: float | None, name: str) -> None:
    """A dashed line across, such as the teacher's score."""
    if value is not None:
        axes.axhline(value, color="#222222", linewidth=0.9, linestyle=(0, (4, 3)), label=name)
        legend(axes)


def scatter(
    name: str,
    systems: Mapping[str, Runs],
    panes: Sequence[tuple[str, str, str]],
    x_label: str,
    measure: Measure | None,
) -> bytes:
    """An SVG with a point a system in each pane (key of x, key of y, title), and one legend; the
    first pane's y is quality by the measure, or every pane's where all are of one."""
    with plot(name, len(panes), size=(4.4 * len(panes) + 1.0, 3.8)) as drawn:
        for axes, (x_key, y_key, title) in zip(drawn.axes, panes, strict=True):
            for place, (label, runs) in enumerate(systems.items()):
                x, y = average(runs, x_key), average(runs, y_key)
                if x is not None and y is not None:
                    axes.plot([x], [y], linestyle="", label=label, markersize=6.5, **look(place))
            axes.set(title=title, xlabel=x_label)
            if measure is not None and y_key.startswith(measure.key):
                quality(axes, measure)
        legend(drawn.axes[-1])
    return drawn.image


def pairs(
    axes: Axes,
    systems: Sequence[tuple[str, Estimate | None, Estimate | None]],
    names: tuple[str, str],
) -> None:
    """A line a system, from the top down, with two estimates, such as greedy and beam."""
    for which, (name, shift, fill) in enumerate(
        zip(names, (0.13, -0.13), ("none", "full"), strict=True)
    ):
        for place, system in enumerate(systems):
            found = (system[1], system[2])[which]
            if found is None:
                continue
            if found.low is not None and found.high is not None:
                axes.hlines(shift - place, found.low, found.high, color=COLOURS[0], linewidth=1.1)
            label = name if place == 0 else None
            axes.plot(
                [found.value], [shift - place], "o", color=COLOURS[0], fillstyle=fill, label=label
            )
    axes.set_yticks([-place for place in range(len(systems))], [name for name, _, _ in systems])
    axes.grid(axis="y", visible=False)
    legend(axes)

"""The page's plots, one function each: from rows to SVG, or None where nothing was measured.

Chooses what is drawn; how it looks is `page_drawing`'s. Better is always up or right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.kim_rush.page_cells import Students, students_of
from experiments.kim_rush.page_cost_tables import pruned_systems
from experiments.kim_rush.page_drawing import (
    GROUND,
    INK,
    MUTED,
    Label,
    label_ends,
    look_of,
    panels,
    put_labels,
    settle,
    styled,
    svg,
)
from experiments.kim_rush.page_estimates import Quantity, average, estimate
from experiments.kim_rush.page_rows import (
    TEACHER,
    Measure,
    Results,
    Row,
    Runs,
    Task,
    distinct,
    grouped,
    methods_among,
    number,
    plain,
    runs_of,
)
from experiments.kim_rush.page_text import method_name, share_name, size_name
from experiments.kim_rush.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def main_plot(results: Results, task: Task) -> bytes | None:
    """Greedy and beam scores of every system with intervals, the largest students first."""
    found = students_of(results, task)
    if not found:
        return None
    systems = [
        (f"{method_name(method)}", method, found[0].teacher(method))
        for method in methods_among(found[0].main)
        if found[0].teacher(method)
    ]
    for students in found:
        systems += [
            (f"{method_name(method)}  {size_name(students.size)}", method, students.student(method))
            for method in students.methods
        ]
    with styled(f"{task.name} main"):
        figure, (axes,) = panels(1, width=7.2, height=0.9 + 0.26 * len(systems))
        for place, (_, method, runs) in enumerate(systems):
            _pair(axes, -place, method, runs, task.measure)
        axes.set_yticks([-place for place in range(len(systems))], [name for name, _, _ in systems])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        _quality_axis(axes, task.measure, "x")
        axes.set_title("hollow: greedy     filled: beam 5     bars: 95 % intervals", color=MUTED)
        return svg(figure)


def _pair(axes: Axes, place: float, method: str, runs: Runs, measure: Measure) -> None:
    look = look_of(method)
    ends = [estimate(Quantity(runs, key)) for key in (measure.greedy, measure.beam)]
    shown = [end.value for end in ends if end is not None]
    axes.plot(shown, [place] * len(shown), color=look.colour, linewidth=1.0, alpha=0.6)
    for end, filled, shift in zip(ends, (False, True), (0.13, -0.13), strict=True):
        if end is None:
            continue
        if end.low is not None and end.high is not None:
            axes.hlines(place + shift, end.low, end.high, color=look.colour, linewidth=1.2)
        fill = look.colour if filled else GROUND
        axes.plot(
            [end.value],
            [place],
            marker=look.marker,
            markersize=6.5,
            markerfacecolor=fill,
            markeredgecolor=look.colour,
            zorder=3,
        )


def _quality_axis(axes: Axes, measure: Measure, which: str) -> None:
    """Names the axis of quality and turns it round where less is better."""
    arrow = "better →" if measure.sign > 0 else "less is better →"
    axis, label = (axes.xaxis, axes.set_xlabel) if which == "x" else (axes.yaxis, axes.set_ylabel)
    label(f"{measure.name} ({arrow})")
    axis.set_inverted(measure.sign < 0)


def likelihood_plot(results: Results, task: Task) -> bytes | None:
    """Quality over perplexity, and mode share over perplexity, of the largest student's methods."""
    found = students_of(results, task)
    systems = [] if not found else _with_perplexity(found[0])
    if not systems:
        return None
    panes = (
        (task.measure.greedy, f"{task.measure.name}, greedy"),
        ("mode_share", "p(t=ŷ)"),
    )
    with styled(f"{task.name} likelihood"):
        figure, both = panels(2, width=10.0, height=4.6)
        labels: list[list[Label]] = []
        for axes, (key, title) in zip(both, panes, strict=True):
            labels.append(_scatter(axes, systems, key))
            axes.set_title(f"{title} over perplexity", color=MUTED)
            axes.set_xlabel("perplexity of the references")
            _plain_log_axis(axes, "x", [average(runs, "perplexity") for _, runs in systems])
            axes.margins(y=0.15)
        _quality_axis(both[0], task.measure, "y")
        _plain_log_axis(both[1], "y", [average(runs, "mode_share") for _, runs in systems])
        both[1].set_ylabel("share of probability on its own best output")
        settle(figure)
        for axes, near in zip(both, labels, strict=True):
            put_labels(axes, near)
        return svg(figure)


def _with_perplexity(students: Students) -> list[tuple[str, Runs]]:
    systems = [(method, students.teacher(method)) for method in (TEACHER, "teacher+seq_inter")]
    systems += [(method, students.student(method)) for method in students.methods]
    return [(m, runs) for m, runs in systems if average(runs, "perplexity") is not None]


def _scatter(axes: Axes, systems: Sequence[tuple[str, Runs]], key: str) -> list[Label]:
    labels = []
    for method, runs in systems:
        x, y = average(runs, "perplexity"), average(runs, key)
        if x is None or y is None:
            continue
        look = look_of(method)
        axes.plot([x], [y], marker=look.marker, color=look.colour, markersize=6.5)
        labels.append(Label(x, y, method_name(method), look.colour))
    return labels


def _plain_log_axis(axes: Axes, which: str, values: Sequence[float | None]) -> None:
    """A logarithmic axis with plain numbers, as many as fit."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
    steps = (1, 2, 5) if span > 4 else (1, 1.5, 2, 3, 4, 5, 6, 8) if span > 1.6 else _FINE
    axis.set_major_locator(LogLocator(subs=steps, numticks=30))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain_number(value)))
    axis.set_minor_locator(NullLocator())


def _plain_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:.4g}"


_FINE = tuple(1 + step / 10 for step in range(90))


def pruning_plot(results: Results, task: Task) -> bytes | None:
    """Beam scores over the weights that are left, with the teacher's as a line."""
    systems = pruned_systems(results, task)
    measure = task.measure
    points: dict[tuple[str, str], list[tuple[float, float, Estimate]]] = {}
    for (size, method, share), runs in systems.items():
        left = average(runs, "nonzero")
        found = estimate(Quantity(runs, measure.beam))
        if left is not None and found is not None:
            points.setdefault((size, method), []).append((left, share, found))
    if not points:
        return None
    with styled(f"{task.name} pruning"):
        figure, (axes,) = panels(1, width=9.0, height=4.0)
        ends = []
        for (size, method), line in points.items():
            line.sort(key=lambda point: point[0])
            _line(axes, method, [(left, found) for left, _, found in line])
            name = f"{method_name(method)}  {size_name(size)}"
            colour = look_of(method).colour
            ends.append(Label(line[-1][0], line[-1][2].value, name, colour))
            for left, share, found in line:
                _beside(axes, left, found.value, share_name(share), colour)
        _plain_log_axis(axes, "x", [left for line in points.values() for left, _, _ in line])
        _teacher_line(axes, results, task)
        axes.margins(y=0.15)
        axes.set_xlabel("weights that are not zero")
        _quality_axis(axes, measure, "y")
        label_ends(figure, axes, ends)
        return svg(figure)


def _beside(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(text, (x, y), (4, -10), textcoords="offset points", fontsize=8.0, color=colour)


def _line(axes: Axes, method: str, points: Sequence[tuple[float, Estimate]]) -> None:
    look = look_of(method)
    axes.plot(
        [x for x, _ in points],
        [found.value for _, found in points],
        color=look.colour,
        marker=look.marker,
        markersize=5.0,
        linewidth=1.5,
    )
    for x, found in points:
        if found.low is not None and found.high is not None:
            axes.vlines(x, found.low, found.high, color=look.colour, linewidth=1.0, alpha=0.7)


def _teacher_line(axes: Axes, results: Results, task: Task) -> None:
    level = average(runs_of(results.of(task, "main"), TEACHER, TEACHER), task.measure.beam)
    if level is not None:
        axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            "teacher, beam",
            (0.01, level),
            (0, 3),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            fontsize=8.0,
        )


def curves_plot(results: Results, task: Task) -> bytes | None:
    """Greedy scores over the size of the student and over the length of its training."""
    panes = [
        (rows, key, label)
        for experiment, key, label in (
            ("size_curve", "parameters", "parameters of the student"),
            ("length_curve", "updates", "updates of training"),
        )
        if (rows := plain(results.of(task, experiment))) and distinct(rows, key)
    ]
    if not panes:
        return None
    with styled(f"{task.name} curves"):
        figure, drawn = panels(len(panes), width=5.6 * len(panes), height=3.8)
        ends = []
        for axes, (rows, key, label) in zip(drawn, panes, strict=True):
            ends.append(_curves(axes, rows, key, task.measure))
            _plain_log_axis(axes, "x", list(distinct(rows, key)))
            axes.set_xlabel(label)
            _quality_axis(axes, task.measure, "y")
        for axes, last in zip(drawn, ends, strict=True):
            label_ends(figure, axes, last)
        return svg(figure)


def _curves(axes: Axes, rows: Sequence[Row], key: str, measure: Measure) -> list[Label]:
    """Draws a line for each method (and size, along the training); returns the ends to label."""
    along = "updates" if key == "parameters" else "size"
    many = len({row.get(along) for row in rows}) > 1
    labels = []
    for method in methods_among(rows):
        of_method = tuple(row for row in rows if row.get("method") == method)
        for (fixed_value,), runs in grouped(of_method, along).items():
            points = [
                (x, found)
                for x in distinct(runs, key)
                if (found := estimate(Quantity(_at(runs, key, x), measure.greedy))) is not None
            ]
            if points:
                _line(axes, method, points)
                name = method_name(method) + (f"  {size_name(str(fixed_value))}" if many else "")
                labels.append(
                    Label(points[-1][0], points[-1][1].value, name, look_of(method).colour)
                )
    return labels


def _at(runs: Runs, key: str, value: float) -> Runs:
    return tuple(row for row in runs if number(row, key) == value)

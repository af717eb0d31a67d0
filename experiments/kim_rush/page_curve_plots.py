"""Plots of scores over a cost: weights left after pruning, size of the student, its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.harness.axes import plain_log_axis, quality_axis
from experiments.harness.drawing import INK, Label, label_ends, panels, styled, svg
from experiments.harness.estimates import Quantity, average, estimate
from experiments.harness.reading import TEACHER, Measure, Row, Runs, distinct, grouped, number
from experiments.harness.statistics import Estimate
from experiments.harness.text import share_name
from experiments.kim_rush.page_cost_tables import pruned_systems
from experiments.kim_rush.page_looks import look_of
from experiments.kim_rush.page_rows import Results, Task, methods_among, plain, runs_of
from experiments.kim_rush.page_text import method_name, size_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
        plain_log_axis(axes, "x", [left for line in points.values() for left, _, _ in line])
        _teacher_line(axes, results, task)
        axes.margins(y=0.15)
        axes.set_xlabel("weights that are not zero")
        quality_axis(axes, measure, "y")
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
        if (rows := plain(results.curve(task, experiment))) and distinct(rows, key)
    ]
    if not panes:
        return None
    with styled(f"{task.name} curves"):
        figure, drawn = panels(len(panes), width=5.6 * len(panes), height=3.8)
        ends = []
        for axes, (rows, key, label) in zip(drawn, panes, strict=True):
            ends.append(_curves(axes, rows, key, task.measure))
            plain_log_axis(axes, "x", list(distinct(rows, key)))
            axes.set_xlabel(label)
            quality_axis(axes, task.measure, "y")
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

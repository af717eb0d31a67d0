"""Plots of all systems at once: from rows to SVG, or None where nothing was measured.

Chooses what is drawn; how it looks is `page_drawing`'s. Better is always up or right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.harness.axes import plain_log_axis, quality_axis
from experiments.harness.drawing import (
    GROUND,
    INK,
    MUTED,
    Label,
    panels,
    put_labels,
    settle,
    styled,
    svg,
)
from experiments.harness.estimates import Quantity, average, estimate
from experiments.harness.reading import TEACHER, Measure, Runs
from experiments.kim_rush.page_cells import Students, students_of
from experiments.kim_rush.page_looks import look_of
from experiments.kim_rush.page_rows import Results, Task, methods_among
from experiments.kim_rush.page_text import method_name, size_name

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
        quality_axis(axes, task.measure, "x")
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
            plain_log_axis(axes, "x", [average(runs, "perplexity") for _, runs in systems])
            axes.margins(y=0.15)
        quality_axis(both[0], task.measure, "y")
        plain_log_axis(both[1], "y", [average(runs, "mode_share") for _, runs in systems])
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

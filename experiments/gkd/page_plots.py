"""The page's plots: from rows to SVG, or None where nothing was measured.

Chooses what is drawn; how it looks is the harness's `drawing`. Better is always up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from experiments.gkd.methods import SHARES
from experiments.gkd.page_rows import (
    INITIAL,
    Students,
    divergence_name,
    method_name,
    self_bleu,
)
from experiments.gkd.page_tables import in_units, sampled_methods
from experiments.gkd.plan import THRIFTY
from experiments.harness.axes import plain_log_axis, quality_axis
from experiments.harness.drawing import (
    INK,
    MUTED,
    Label,
    label_ends,
    panels,
    put_labels,
    settle,
    styled,
    svg,
)
from experiments.harness.estimates import Quantity, average, estimate
from experiments.harness.reading import TEACHER, Runs
from experiments.harness.statistics import Estimate
from experiments.harness.text import share_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS: Mapping[str, str] = {
    "forward_kl": "#0072b2",
    "jsd_0.1": "#00795a",
    "jsd_0.5": "#7a7a7a",
    "jsd_0.9": "#b87700",
    "reverse_kl": "#a8427a",
    "supervised_kd": "#0072b2",
    "imitkd": "#b87700",
    "on_policy_kd": "#a8427a",
}
Point = tuple[float, Estimate]


def share_plot(students: Students) -> bytes | None:
    """The score over lambda, a line for each divergence, the start and the teacher as levels."""
    lines = {
        divergence: _points(
            students, [(share, students.point(divergence, share)) for share in SHARES]
        )
        for divergence in students.divergences
    }
    lines = {divergence: points for divergence, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    with styled(f"{students.shown.name} share"):
        figure, (axes,) = panels(1, width=7.6, height=3.8)
        ends = []
        for place, (divergence, points) in enumerate(lines.items()):
            colour = _COLOURS[divergence]
            # Moved aside a little, so that intervals at the same lambda do not cover each other.
            moved = [(x + 0.012 * (place - len(lines) / 2), found) for x, found in points]
            _line(axes, moved, colour)
            name = divergence_name(divergence)
            ends.append(Label(1.0, points[-1][1].value, name, colour))
        _level(axes, students.initial, students.key, "initial student")
        axes.set_xticks(list(SHARES))
        axes.set_xlabel("λ: the share of the batches that the student writes")
        axes.margins(y=0.12)
        quality_axis(axes, students.shown.measure, "y")
        label_ends(figure, axes, ends)
        return svg(figure)


def diversity_plot(students: Students) -> bytes | None:
    """Quality of samples over how alike they are, at each temperature."""
    methods = [method for method in sampled_methods(students) if method != TEACHER]
    shown = students.temperatures
    if not methods or not shown:
        return None
    with styled(f"{students.shown.name} diversity"):
        figure, both = panels(len(shown), width=5.0 * len(shown), height=4.4)
        labels: list[list[Label]] = []
        for axes, temperature in zip(both, shown, strict=True):
            near = []
            for method in methods:
                runs = students.student(method)
                x = average(runs, self_bleu(temperature))
                y = average(runs, students.shown.sampled(temperature))
                if x is None or y is None:
                    continue
                colour = _colour_of(runs)
                axes.plot([x], [y], marker="o", color=colour, markersize=6.0)
                near.append(Label(x, y, method_name(method).replace(", λ 1", ""), colour))
            axes.set_title(f"samples at temperature {temperature}", color=MUTED)
            axes.set_xlabel("self-BLEU (← more diverse)")
            axes.margins(0.15)
            quality_axis(axes, students.shown.measure, "y")
            labels.append(near)
        settle(figure)
        for axes, near in zip(both, labels, strict=True):
            put_labels(axes, near)
        return svg(figure)


def _colour_of(runs: Runs) -> str:
    row = runs[0]
    if row.get("method") == INITIAL:
        return INK
    return _COLOURS.get(str(row.get("divergence")), MUTED) if row.get("lambda") == 1.0 else MUTED


def data_plot(students: Students) -> bytes | None:
    """The score over the part of the training inputs."""
    shares = students.data_shares
    lines = {
        method: _points(students, [(share, students.trained_on(method, share)) for share in shares])
        for method in THRIFTY
    }
    lines = {method: points for method, points in lines.items() if points}
    if not shares or not lines:
        return None
    with styled(f"{students.shown.name} data"):
        figure, (axes,) = panels(1, width=7.0, height=3.6)
        ends = []
        for method, points in lines.items():
            _line(axes, points, _COLOURS[method])
            name = method_name(method)
            ends.append(Label(points[-1][0], points[-1][1].value, name, _COLOURS[method]))
        starts = students.starts_of(students.trained_on(THRIFTY[0], shares[0]))
        _level(axes, starts, students.key, "initial student")
        plain_log_axis(axes, "x", shares)
        axes.set_xticks(shares, [share_name(share) for share in shares])
        axes.set_xlabel("part of the training inputs")
        axes.margins(y=0.12)
        quality_axis(axes, students.shown.measure, "y")
        label_ends(figure, axes, ends)
        return svg(figure)


_REWARD_PANES = (
    ("rouge_2_greedy", 1.0, "ROUGE-2, not rewarded"),
    ("agreement_top1", 100.0, "agrees with the teacher, %"),
    ("length_ratio_greedy", 1.0, "length / reference"),
)


def reward_plot(students: Students) -> bytes | None:
    """What is not rewarded over what is, along alpha."""
    weights = students.teacher_weights
    if len(weights) < 2:
        return None
    with styled(f"{students.shown.name} reward"):
        figure, panes = panels(len(_REWARD_PANES), width=11.0, height=3.8)
        labels: list[list[Label]] = []
        for axes, (key, scale, title) in zip(panes, _REWARD_PANES, strict=True):
            near = []
            for weight in weights:
                runs = students.rewarded(weight)
                x, y = average(runs, "rouge_l_greedy"), average(runs, key)
                if x is not None and y is not None:
                    near.append(Label(x, scale * y, f"α {weight:g}", INK))
            axes.plot([n.x for n in near], [n.y for n in near], color=MUTED, marker="o")
            start = students.start_of_rewarded
            x = average(start, "rouge_l_greedy")
            y = average(in_units(start, key, scale), key)
            if x is not None and y is not None:
                axes.plot([x], [y], color=INK, marker="s", markersize=5.0)
                near.append(Label(x, y, "initial", INK))
            axes.set_title(title, color=MUTED)
            axes.set_xlabel("ROUGE-L, the reward")
            axes.margins(0.2)
            labels.append(near)
        settle(figure)
        for axes, near in zip(panes, labels, strict=True):
            put_labels(axes, near)
        return svg(figure)


def _points(students: Students, systems: Sequence[tuple[float, Runs]]) -> list[Point]:
    found = [(x, estimate(Quantity(runs, students.key))) for x, runs in systems]
    return [(x, value) for x, value in found if value is not None]


def _line(axes: Axes, points: Sequence[Point], colour: str) -> None:
    values = [found.value for _, found in points]
    axes.plot([x for x, _ in points], values, color=colour, marker="o", markersize=5.0)
    for x, found in points:
        if found.low is not None and found.high is not None:
            axes.vlines(x, found.low, found.high, color=colour, linewidth=1.0, alpha=0.7)


def _level(axes: Axes, runs: Runs, key: str, name: str) -> None:
    level = average(runs, key)
    if level is None:
        return
    axes.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        name,
        (0.01, level),
        (0, 3),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=8.0,
    )


PLOTS: Mapping[str, Callable[[Students], bytes | None]] = {
    "share": share_plot,
    "diversity": diversity_plot,
    "data": data_plot,
    "reward": reward_plot,
}

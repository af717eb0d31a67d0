"""How cost grows, and what `--dry-run` said of runs, as tables of docs/results/cost.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

COST = Path(__file__).parent / "results" / "cost.json"
Point = Mapping[str, float]
_PER_TARGET = ("CPU-ms a target token", lambda one: 1e3 * one["cpu_s"] / one["targets"])
_AXES: list[tuple[str, str, str, str, Callable[[Point], float]]] = [
    ("vocabulary", "vocabulary", "vocabulary", *_PER_TARGET),
    ("length of sequences", "length", "length", *_PER_TARGET),
    (
        *("length, `training.attention=sdpa`", "length, fused attention"),
        *("length, fused attention", *_PER_TARGET),
    ),
    ("tokens of a batch", "batch", "batch", *_PER_TARGET),
    ("parameters of the teacher", "teacher", "teacher_parameters", *_PER_TARGET),
    (
        *("rows, tokenized", "rows", "rows", "CPU-ms a row"),
        lambda one: 1e3 * one["cpu_s_of_tokenizing_a_row"],
    ),
    (
        *("rows, an epoch planned", "rows", "rows", "CPU-µs a row"),
        lambda one: 1e6 * one["cpu_s_of_planning"] / one["rows"],
    ),
    (
        *("rows, a batch of them", "rows", "rows", "CPU-ms a batch"),
        lambda one: 1e3 * one["cpu_s_of_a_batch"],
    ),
    (
        *("hypotheses of a label", "hypotheses", "hypotheses", "CPU-ms a source"),
        lambda one: 1e3 * one["cpu_s"] / one["sources"],
    ),
]
"""What a row is called, its points, what grows in them, and what is told of each."""


def growth_table() -> str:
    """A row an axis: its points, the cost at each, how it grows between the last two, memory."""
    growth = json.loads(COST.read_text("utf-8"))["growth"]
    lines = [
        "| what grows | its values | cost | of | grows as | peak memory, GB |",
        "|---|---|---|---|---|---|",
    ]
    for name, axis, key, unit, cost_of in _AXES:
        points: Sequence[Point] = growth[axis]
        costs = [cost_of(one) for one in points]
        (before, last), (cheap, dear) = (one[key] for one in points[-2:]), costs[-2:]
        power = math.log(dear / cheap) / math.log(last / before)
        cells = [
            " · ".join(_count(one[key]) for one in points),
            " · ".join(f"{cost:.2g}" for cost in costs),
            unit,
            "flat" if abs(power) < 0.15 else f"n^{power:.1f}",
            " · ".join(f"{one['peak_bytes'] / 1e9:.1f}" for one in points),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def planned_table() -> str:
    """A row a recipe: planned over taken CPU-seconds, part by part."""
    rows = json.loads(COST.read_text("utf-8"))["recipes"]
    parts = ["labels", "teacher's scores", "updates", "dev scores", "training", "evaluation"]
    lines = [f"| recipe | {' | '.join(parts)} |", f"|---|{'---:|' * len(parts)}"]
    for recipe in dict.fromkeys(row["recipe"] for row in rows):
        found = {row["part"]: row for row in rows if row["recipe"] == recipe}
        cells = [
            f"{found[part]['planned_s']:.1f} / {found[part]['taken_s']:.1f}"
            if part in found
            else ""
            for part in parts
        ]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _count(value: float) -> str:
    if value < 1e4:
        return f"{value:,.0f}"
    return f"{value / 1e6:.2g} M" if value >= 1e5 else f"{value / 1e3:.0f} k"

"""What a row is compared with: its own start, the teacher, and other systems of a single seed.

Adds `initial_value`, `teacher_value` and `gain` (positive is better) to every measured row; and
where a system was trained with one seed alone, under `versus`, the interval of its differences from
the systems that it is held against, both on the same resampled test sets. Where there are several
seeds, the seeds tell how sure a difference is. Measures nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.gkd.cells import STARTS
from experiments.gkd.measure import outputs_of
from experiments.gkd.methods import BASELINES
from experiments.gkd.tasks import Task
from experiments.harness.paired import NUM_RESAMPLES, difference_interval
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.score import SummedStatistics

Row = Mapping[str, Any]
COMPARED = ("teacher", "initial", "main")
"""The experiments whose systems every row may be held against; and those of its own."""
HELD_AGAINST = ("teacher", "initial", *BASELINES, "on_policy_kd")


def compared_rows(
    task: Task, rows: Sequence[Row], *, num_resamples: int = NUM_RESAMPLES
) -> list[dict[str, Any]]:
    """The measured rows of the task, each with what it is compared with, as far as it is known."""
    measured = [row for row in rows if row["task"] == task.name and "value" in row]
    found = [{**row, **_values(task, row, measured)} for row in measured]
    seeds = Counter(map(_system, measured))
    alone = [row for row in found if seeds[_system(row)] == 1 and row["experiment"] != "teacher"]
    if not alone:
        return found
    bases = [
        row
        for row in measured
        if row["method"] in HELD_AGAINST and row["experiment"] in (*COMPARED, "follow_up")
    ]
    scored = {
        row["name"]: statistics
        for row in (*alone, *bases)
        if (statistics := _scored(task, row)) is not None
    }
    for row in alone:
        row["versus"] = _versus(row, bases, scored, num_resamples)
    return found


def _system(row: Row) -> tuple[object, ...]:
    keys = ("experiment", "method", "data_share", "alpha", "updates")
    return tuple(row[key] for key in keys)


def _values(task: Task, row: Row, rows: Sequence[Row]) -> dict[str, float]:
    """The task's metric of the teacher, of where the student started, and what it gained."""
    found: dict[str, float] = {}
    for other in rows:
        if other["experiment"] == "teacher":
            found["teacher_value"] = other["value"]
        if other["experiment"] in STARTS and other["training"] == row["start"]:
            sign = -1 if task.lower_is_better else 1
            found["initial_value"] = other["value"]
            found["gain"] = sign * (row["value"] - other["value"])
    return found


def _versus(
    row: Row,
    bases: Sequence[Row],
    scored: Mapping[str, SummedStatistics],
    num_resamples: int,
) -> dict[str, dict[str, list[float]]]:
    """The intervals of row - other, by the other's name and the key of the score."""
    key = row["metric"]
    if row["name"] not in scored:
        return {}
    return {
        base["name"]: {
            f"{key} - {key}": difference_interval(
                scored[row["name"]], scored[base["name"]], num_resamples=num_resamples
            )
        }
        for base in bases
        if base["name"] in scored
        and base["name"] != row["name"]
        and base["experiment"] in (*COMPARED, row["experiment"])
        and (base["seed"] == row["seed"] or base["experiment"] == "teacher")
    }


def _scored(task: Task, row: Row) -> SummedStatistics | None:
    """The statistics of a row's greedy outputs by the task's metric; None where they are gone."""
    outputs = outputs_of(row, task)
    return None if outputs is None else CORPUS_METRICS[task.metric].statistics(*outputs)

"""Intervals of differences between systems that were trained with one seed: both on one test set.

Where there are several seeds, the seeds tell how sure a difference is; of a single one only the
test set can. Adds to a row, under `versus`, for every other system of its size and for the
teacher: the interval of row - other, for each way of decoding of both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from experiments.harness.paired import NUM_RESAMPLES, difference_interval
from experiments.kim_rush.cells import run_folder
from experiments.kim_rush.tasks import Task
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.metrics.score import SummedStatistics
from seqdistill.records.run_directory import RunDirectory

MODES = ("greedy", "beam")
_BESIDE_TEACHER = "main/teacher/teacher-seq_inter/seed1"
"""The cell whose outputs hold the teacher's own."""
_EXPERIMENTS = ("main", "pruning", "follow_up")

Row = Mapping[str, Any]
Scored = Mapping[str, SummedStatistics]
"""By the key of the score: bleu_greedy, bleu_beam."""


def rows_with_intervals(
    task: Task, rows: Sequence[Row], *, num_resamples: int = NUM_RESAMPLES
) -> list[dict[str, Any]]:
    """The rows of the task that were trained with one seed, each with its `versus`."""
    of_task = [r for r in rows if r["task"] == task.name and r["experiment"] in _EXPERIMENTS]
    seeds = Counter(_system(row) for row in of_task)
    alone = [row for row in of_task if seeds[_system(row)] == 1]
    first = task.seeds[0]
    scored = {row["name"]: _scored(task, row) for row in of_task if row["seed"] == first}
    known = {name: found for name, found in scored.items() if found is not None}
    return [
        {**row, "versus": _versus(row, of_task, known, num_resamples)}
        for row in alone
        if row["name"] in known
    ]


def _system(row: Row) -> tuple[object, ...]:
    """What rows of several seeds have in common."""
    keys = ("experiment", "size", "method", "variant", "pruned_share", "engine")
    return tuple(row.get(key) for key in keys)


def _versus(
    row: Row, rows: Sequence[Row], scored: Mapping[str, Scored], num_resamples: int
) -> dict[str, dict[str, list[float]]]:
    own = scored[row["name"]]
    return {
        other["name"]: {
            f"{key} - {other_key}": difference_interval(mine, theirs, num_resamples=num_resamples)
            for key, mine in own.items()
            for other_key, theirs in scored[other["name"]].items()
        }
        for other in rows
        if other["name"] in scored
        and other["name"] != row["name"]
        and other["size"] in (row["size"], "teacher")
    }


def _scored(task: Task, row: Row) -> Scored | None:
    """The statistics of a row's outputs by the task's main metric; None where they are gone."""
    method = str(row["method"])
    cell = _BESIDE_TEACHER if method == "teacher" else str(row["name"])
    outputs = RunDirectory(run_folder(task, cell)).read_outputs()
    if not outputs:
        return None
    (main, *_) = cast("Sequence[str]", task.settings.get("evaluation.metrics", ("bleu",)))
    references = [str(line["reference"]) for line in outputs]
    return {
        f"{main}_{mode}": CORPUS_METRICS[main].statistics(
            [cast("dict[str, str]", line[mode])[method] for line in outputs], references
        )
        for mode in MODES
    }

"""Runs the experiment, or goes on with it: `python -m experiments.kim_rush.run [TASK ...]`.

    for each task:   what it needs (data, teacher, teacher's corpora)
    then, until no cell is left:  plan from the rows so far -> cells, side by side -> rows

Killed at any moment it loses at most what its cells did since their last checkpoint. A row that was
measured with the same settings, data and teacher is not measured again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from experiments.harness.command import run_experiment
from experiments.harness.pages import exits
from experiments.harness.rows import add_rows, read_rows
from experiments.harness.runner import timed, unmeasured
from experiments.kim_rush.cells import Cell, plan
from experiments.kim_rush.measure import digest, rows_of
from experiments.kim_rush.page import write_page
from experiments.kim_rush.paired import rows_with_intervals
from experiments.kim_rush.prepare import prepare
from experiments.kim_rush.speed import speed_rows
from experiments.kim_rush.tasks import TASKS, Task
from seqdistill.core.progress import NoProgress

FILE = Path("docs/results/kim_rush.json")
_TOLD = ("dev_bleu", "dev_token_error_rate", "bleu_beam", "sequence_error_rate_beam", "seconds")


def pending(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells that can be stated now and have no row of their settings, in order of running."""
    waiting = []
    for task in tasks:
        cells = plan(task, rows)
        left = unmeasured(cells, rows, digest)
        names = {cell.name for cell in left}
        measured = (cell for cell in cells if cell.name not in names)
        found = frozenset(name for cell in measured for name in cell.trained)
        waiting += [dataclasses.replace(cell, found=found) for cell in left]
    return waiting


def _timed_rows(cell: Cell) -> list[dict[str, object]]:
    return timed(lambda: rows_of(cell))


def _compared(task: Task) -> list[dict[str, Any]]:
    """The rows of single seeds with their intervals; speeds are measured once no cell is left."""
    if not pending([task], read_rows(FILE)):
        add_rows(FILE, speed_rows(task, read_rows(FILE)))
    return rows_with_intervals(task, read_rows(FILE))


def main() -> None:
    """The command line."""
    run_experiment(
        (__doc__ or "").splitlines()[0],
        TASKS,
        FILE,
        pending=pending,
        prepare=lambda task: prepare(task, progress=NoProgress()),
        measure=_timed_rows,
        finish=_compared,
        write_page=write_page,
        told=_TOLD,
    )


if __name__ == "__main__":
    exits(main)

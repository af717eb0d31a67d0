"""Runs the experiment, or goes on with it: `python -m experiments.gkd.run [TASK ...]`.

    for each task:   what it needs (data, teacher, the teacher's outputs)
    then, until no cell is left:  plan from the rows so far -> cells, side by side -> rows

Killed at any moment it loses at most what its cells did since their last checkpoint. A row that was
measured with the same settings, data and teacher is not measured again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.gkd.cells import STARTS, Cell
from experiments.gkd.compared import compared_rows
from experiments.gkd.measure import digest, rows_of, start_is_gone
from experiments.gkd.page import write_page
from experiments.gkd.plan import plan
from experiments.gkd.prepare import make_data, prepare
from experiments.gkd.tasks import TASKS, Task
from experiments.harness.command import run_experiment
from experiments.harness.pages import exits
from experiments.harness.rows import read_rows
from experiments.harness.runner import timed, unmeasured
from seqdistill.assembly.data import Split
from seqdistill.core.progress import NoProgress

FILE = Path("docs/results/gkd.json")
_SCORES = ("token_error_rate", "answer_accuracy", "chrf", "rouge_2")
_TOLD = (*(f"dev_{score}" for score in _SCORES), "value", "wall_s", "seconds")


def pending(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells that can be stated now and have no row of their settings, in order of running.

    Students that some of them start from are trained again where they are gone.
    """
    found = []
    for task in tasks:
        cells = unmeasured(plan(task, rows), rows, digest)
        gone = {row["training"] for row in rows if start_is_gone(row, task)}
        needed = gone & {cell.start for cell in cells}
        there = [row for row in rows if row.get("training") not in needed]
        found += unmeasured(plan(task, there), there, digest)
    return found


def corpus_is_read(task: Task, rows: list[dict[str, Any]]) -> bool:
    """Whether a cell reads the teacher's outputs that waits now, or will once its start is there.

    A cell that is stated later still has them made, alone.
    """
    return any(
        cell.experiment in STARTS or cell.method.reads_teacher_corpus
        for cell in pending([task], rows)
    )


def _prepared(task: Task) -> dict[Split, int]:
    make_data(task)  # what the plan names
    labelled = corpus_is_read(task, read_rows(FILE))
    return prepare(task, labelled=labelled, progress=NoProgress())


def _timed_rows(cell: Cell) -> list[dict[str, object]]:
    return timed(lambda: rows_of(cell))


def main() -> None:
    """The command line."""
    run_experiment(
        (__doc__ or "").splitlines()[0],
        TASKS,
        FILE,
        pending=pending,
        prepare=_prepared,
        measure=_timed_rows,
        finish=lambda task: compared_rows(task, read_rows(FILE)),
        write_page=write_page,
        told=_TOLD,
        needed_to_list=make_data,
    )


if __name__ == "__main__":
    exits(main)

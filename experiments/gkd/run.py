"""Runs the experiment, or goes on with it: `python -m experiments.gkd.run [TASK ...]`.

    for each task:   what it needs (data, teacher, the teacher's outputs)
    then, until no cell is left:  plan from the rows so far -> cells, side by side -> rows

Killed at any moment it loses at most what its cells did since their last checkpoint. A row that was
measured with the same settings, data and teacher is not measured again.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from experiments.gkd.cells import Cell, plan
from experiments.gkd.compared import compared_rows
from experiments.gkd.measure import digest, rows_of, start_is_gone
from experiments.gkd.page import write_page
from experiments.gkd.prepare import make_data, prepare
from experiments.gkd.tasks import TASKS, Task
from experiments.harness.rows import add_rows, add_sizes, read_rows
from experiments.harness.runner import run_cells, timed, unmeasured, use_one_thread
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NoProgress

FILE = Path("docs/results/gkd.json")
_SCORES = ("token_error_rate", "answer_accuracy", "chrf", "rouge_2")
_TOLD = (*(f"dev_{score}" for score in _SCORES), "value", "wall_s", "seconds")


def pending(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells that can be stated now and have no row of their settings, in order of running.

    While any is left, students that others start from are trained again where they are gone.
    """
    found = []
    for task in tasks:
        if unmeasured(plan(task, rows), rows, digest):
            there = [row for row in rows if not start_is_gone(row, task)]
            found += unmeasured(plan(task, there), there, digest)
    return found


def _timed_rows(cell: Cell) -> list[dict[str, object]]:
    return timed(lambda: rows_of(cell))


def main() -> None:
    """The command line."""
    try:
        _run()
    except UserError as error:
        sys.exit(str(error))


def _run() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", choices=[*TASKS, []], metavar="TASK")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2)), metavar="N")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    parser.add_argument("--list", action="store_true", help="show what waits, and stop")
    options = parser.parse_args()
    tasks = [TASKS[name] for name in options.tasks or TASKS]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    until = time.monotonic() + 60 * options.minutes
    if options.list:
        for task in tasks:
            make_data(task)
        for cell in pending(tasks, read_rows(FILE)):
            print(cell.task.name, cell.name)
        return
    keep_freed_memory()
    for task in tasks:
        add_sizes(FILE, task.name, prepare(task, progress=NoProgress()))
    failures = run_cells(
        lambda rows: pending(tasks, rows),
        _timed_rows,
        FILE,
        initializer=use_one_thread,
        workers=options.workers,
        until=until,
        told=_TOLD,
    )
    for task in tasks:
        add_rows(FILE, compared_rows(task, read_rows(FILE)))
    write_page(FILE)
    if failures:
        sys.exit(
            f"{failures} cells failed; their reasons stand above. Run again to try them again."
        )


if __name__ == "__main__":
    main()

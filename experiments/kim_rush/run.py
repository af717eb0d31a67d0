"""Runs the experiment, or goes on with it: `python -m experiments.kim_rush.run [TASK ...]`.

    for each task:   what it needs (data, teacher, teacher's corpora)
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

from experiments.harness.rows import add_rows, add_sizes, read_rows
from experiments.harness.runner import run_cells, timed, unmeasured, use_one_thread
from experiments.kim_rush.cells import Cell, plan
from experiments.kim_rush.measure import digest, rows_of
from experiments.kim_rush.page import write_page
from experiments.kim_rush.paired import rows_with_intervals
from experiments.kim_rush.prepare import prepare
from experiments.kim_rush.speed import speed_rows
from experiments.kim_rush.tasks import TASKS, Task
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress

FILE = Path("docs/results/kim_rush.json")
_TOLD = ("dev_bleu", "dev_token_error_rate", "bleu_beam", "sequence_error_rate_beam", "seconds")


def pending(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells that can be stated now and have no row of their settings, in order of running."""
    return unmeasured([cell for task in tasks for cell in plan(task, rows)], rows, digest)


def run(tasks: list[Task], *, workers: int, until: float) -> int:
    """The number of failures. Runs cells until none is left or `until` (monotonic) has passed."""
    return run_cells(
        lambda rows: pending(tasks, rows),
        _timed_rows,
        FILE,
        initializer=_ready,
        workers=workers,
        until=until,
        told=_TOLD,
    )


def _timed_rows(cell: Cell) -> list[dict[str, object]]:
    return timed(lambda: rows_of(cell))


def _ready() -> None:
    use_one_thread()


def main() -> None:
    """The command line."""
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
        for cell in pending(tasks, read_rows(FILE)):
            print(cell.task.name, cell.name)
        return
    keep_freed_memory()
    for task in tasks:
        add_sizes(FILE, task.name, prepare(task, progress=NoProgress()))
    failures = run(tasks, workers=options.workers, until=until)
    for task in tasks:
        if not pending([task], read_rows(FILE)):
            add_rows(FILE, speed_rows(task, read_rows(FILE)))
        add_rows(FILE, rows_with_intervals(task, read_rows(FILE)))
    write_page(FILE)
    if failures:
        sys.exit(
            f"{failures} cells failed; their reasons stand above. Run again to try them again."
        )


if __name__ == "__main__":
    main()

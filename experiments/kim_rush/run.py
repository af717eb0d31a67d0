"""Runs the experiment, or goes on with it: `python -m experiments.kim_rush.run [TASK ...]`.

    for each task:   what it needs (data, teacher, teacher's corpora)
    then, until no cell is left:  plan from the rows so far -> cells, side by side -> rows

Killed at any moment it loses at most what its cells did since their last checkpoint. A row that was
measured with the same settings, data and teacher is not measured again.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

import torch

from experiments.kim_rush.cells import Cell, plan
from experiments.kim_rush.measure import digest, rows_of
from experiments.kim_rush.page import write_page
from experiments.kim_rush.paired import rows_with_intervals
from experiments.kim_rush.prepare import prepare
from experiments.kim_rush.rows import FILE, add_rows, add_sizes, read_rows
from experiments.kim_rush.speed import speed_rows
from experiments.kim_rush.tasks import TASKS, Task
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress

_LOG = logging.getLogger("kim_rush")


def pending(tasks: list[Task], rows: list[dict[str, Any]]) -> list[Cell]:
    """The cells that can be stated now and have no row of their settings, in order of running."""
    known = {(row["task"], row["name"]): row["digest"] for row in rows}
    return [
        cell
        for task in tasks
        for cell in plan(task, rows)
        if known.get((task.name, cell.name)) != digest(cell)
    ]


def next_cell(waiting: list[Cell], running: list[Cell]) -> Cell | None:
    """The first cell that trains nothing which a running one trains, too.

    Two cells that begin with the same stage would wait for each other.
    """
    busy = {(cell.task.name, name) for cell in running for name in cell.trained}
    for cell in waiting:
        if not busy & {(cell.task.name, name) for name in cell.trained}:
            return cell
    return None


def run(tasks: list[Task], *, workers: int, until: float) -> int:
    """The number of failures. Runs cells until none is left or `until` (monotonic) has passed."""
    failed: set[tuple[str, str]] = set()
    running: dict[Future[list[dict[str, object]]], Cell] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_ready) as pool:
        while True:
            waiting = [
                cell
                for cell in pending(tasks, read_rows())
                if (cell.task.name, cell.name) not in failed
                and cell.name not in {other.name for other in running.values()}
            ]
            while len(running) < workers and time.monotonic() < until:
                cell = next_cell(waiting, list(running.values()))
                if cell is None:
                    break
                waiting.remove(cell)
                _LOG.info("%s %s: begins, %d wait", cell.task.name, cell.name, len(waiting))
                running[pool.submit(_timed_rows, cell)] = cell
            if not running:
                return len(failed)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell = running.pop(future)
                try:
                    rows = future.result()
                except Exception:
                    failed.add((cell.task.name, cell.name))
                    _LOG.exception("%s %s: failed", cell.task.name, cell.name)
                else:
                    add_rows(rows)
                    _LOG.info("%s %s: %s", cell.task.name, cell.name, _told(rows[0]))


def _told(row: Mapping[str, object]) -> str:
    keys = ("dev_bleu", "dev_token_error_rate", "bleu_beam", "sequence_error_rate_beam", "seconds")
    return ", ".join(f"{key} {row[key]:.4g}" for key in keys if isinstance(row.get(key), float))


def _timed_rows(cell: Cell) -> list[dict[str, object]]:
    started = time.monotonic()
    rows = rows_of(cell)
    rows[0]["seconds"] = round(time.monotonic() - started, 1)
    return rows


def _ready() -> None:
    """One thread for each worker, and quiet libraries."""
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)


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
        for cell in pending(tasks, read_rows()):
            print(cell.task.name, cell.name)
        return
    keep_freed_memory()
    for task in tasks:
        add_sizes(task.name, prepare(task, progress=NoProgress()))
    failures = run(tasks, workers=options.workers, until=until)
    for task in tasks:
        if not pending([task], read_rows()):
            add_rows(speed_rows(task, read_rows()))
        add_rows(rows_with_intervals(task, read_rows()))
    write_page(FILE)
    if failures:
        sys.exit(
            f"{failures} cells failed; their reasons stand above. Run again to try them again."
        )


if __name__ == "__main__":
    main()

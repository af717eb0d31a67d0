"""The command line of an experiment: which tasks, how many workers, for how long."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from experiments.harness.rows import add_rows, add_sizes, read_rows
from experiments.harness.runner import Cell, Rows, run_cells, use_one_thread
from seqdistill.assembly.data import Split
from seqdistill.core.allocator import keep_freed_memory

C = TypeVar("C", bound=Cell)
T = TypeVar("T")


def run_experiment(
    description: str,
    tasks: Mapping[str, T],
    store: Path,
    *,
    pending: Callable[[list[T], Rows], list[C]],
    prepare: Callable[[T], Mapping[Split, int]],
    measure: Callable[[C], list[dict[str, object]]],
    finish: Callable[[T], Sequence[Mapping[str, object]]],
    write_page: Callable[[Path], None],
    told: Sequence[str],
    needed_to_list: Callable[[T], None] = lambda _task: None,
) -> None:
    """Prepares the chosen tasks, runs their cells, adds what compares them, writes the page.

    `prepare` gives the size of each split; `finish` the rows that need those of all cells;
    `needed_to_list` makes what cells are stated with. Exits with a sentence when cells failed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tasks", nargs="*", choices=[*tasks, []], metavar="TASK")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2)), metavar="N")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="no other cells")
    parser.add_argument("--list", action="store_true", help="show what waits, and stop")
    options = parser.parse_args()
    names = options.tasks or list(tasks)
    chosen = [tasks[name] for name in names]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    until = time.monotonic() + 60 * options.minutes

    def waiting(rows: Rows) -> list[C]:
        return [
            cell
            for cell in pending(chosen, rows)
            if options.seeds is None or cell.seed in options.seeds
        ]

    if options.list:
        for task in chosen:
            needed_to_list(task)
        cells = waiting(read_rows(store))
        print("".join(f"{cell.task.name} {cell.name}\n" for cell in cells), end="")
        return
    keep_freed_memory()
    for name in names:
        add_sizes(store, name, prepare(tasks[name]))
    failures = run_cells(
        waiting,
        measure,
        store,
        initializer=use_one_thread,
        workers=options.workers,
        until=until,
        told=told,
    )
    for task in chosen:
        add_rows(store, finish(task))
    write_page(store)
    if failures:
        sys.exit(
            f"{failures} cells failed; their reasons stand above. Run again to try them again."
        )

"""Runs cells side by side until none is left: plan from the rows so far -> cells -> rows.

Killed at any moment it loses at most what its cells did since their last checkpoint. Knows neither
what a cell trains nor what its rows mean.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from experiments.harness.rows import add_rows, read_rows
from seqdistill.core.allocator import keep_freed_memory

_LOG = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class Cell(Protocol):
    """One thing to train and measure, which its task and name find again among the rows."""

    @property
    def task(self) -> _Named:
        """What it belongs to."""
        ...

    @property
    def name(self) -> str:
        """Its own name, once in a task."""
        ...

    @property
    def seed(self) -> int:
        """What its student is drawn and trained with."""
        ...

    @property
    def trained(self) -> tuple[str, ...]:
        """One name for each training that other cells of the task may need, too."""
        ...


C = TypeVar("C", bound=Cell)
Rows = list[dict[str, Any]]


def unmeasured(cells: Sequence[C], rows: Rows, digest: Callable[[C], str]) -> list[C]:
    """The cells that have no row of their digest, in their order."""
    known = {(row["task"], row["name"]): row["digest"] for row in rows}
    return [cell for cell in cells if known.get((cell.task.name, cell.name)) != digest(cell)]


def next_cell(waiting: Sequence[C], running: Sequence[C]) -> C | None:
    """The first cell that trains nothing which a running one trains, too.

    Two cells that begin with the same training would wait for each other.
    """
    busy = {(cell.task.name, name) for cell in running for name in cell.trained}
    for cell in waiting:
        if not busy & {(cell.task.name, name) for name in cell.trained}:
            return cell
    return None


def run_cells(
    pending: Callable[[Rows], list[C]],
    measure: Callable[[C], list[dict[str, object]]],
    store: Path,
    *,
    initializer: Callable[[], None],
    workers: int,
    until: float,
    told: Sequence[str] = (),
) -> int:
    """The number of failures. Runs cells until none is left or `until` (monotonic) has passed.

    `pending` are the cells that the rows in `store` allow to be stated and lack. Each cell is
    measured by a process of its own kind, `initializer` first; its rows go to `store`. A cell that
    failed is not tried again. `told` are keys of a row that are worth a line of the log.
    """
    failed: set[tuple[str, str]] = set()
    running: dict[Future[list[dict[str, object]]], C] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=initializer) as pool:
        while True:
            busy = {_key(cell) for cell in running.values()}
            waiting = [
                cell
                for cell in pending(read_rows(store))
                if _key(cell) not in failed and _key(cell) not in busy
            ]
            while len(running) < workers and time.monotonic() < until:
                cell = next_cell(waiting, list(running.values()))
                if cell is None:
                    break
                waiting.remove(cell)
                _LOG.info("%s %s: begins, %d wait", *_key(cell), len(waiting))
                running[pool.submit(measure, cell)] = cell
            if not running:
                return len(failed)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                cell = running.pop(future)
                try:
                    rows = future.result()
                except Exception:
                    failed.add(_key(cell))
                    _LOG.exception("%s %s: failed", *_key(cell))
                else:
                    add_rows(store, rows)
                    _LOG.info("%s %s: %s", *_key(cell), _summary(rows[0], told))


def timed(measured: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
    """The rows, the first with the `seconds` that making them took."""
    started = time.monotonic()
    rows = measured()
    rows[0]["seconds"] = round(time.monotonic() - started, 1)
    return rows


def use_one_thread() -> None:
    """One thread for this process, and quiet libraries: workers run side by side."""
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)


def _key(cell: Cell) -> tuple[str, str]:
    return cell.task.name, cell.name


def _summary(row: Mapping[str, object], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {row[key]:.4g}" for key in keys if isinstance(row.get(key), float))

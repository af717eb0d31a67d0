"""Trains and measures many students side by side: plan from the rows so far -> cells -> rows.

Killed at any moment it loses at most what its cells did since their last checkpoint. A cell that
fails leaves its error and the others go on. Knows neither what is compared nor what rows mean.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch

from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import UserError, first_line
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.train import train
from seqdistill.recipe.schema import Recipe
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row

_LOG = logging.getLogger(__name__)
_NUM_DIGITS = 12


@dataclasses.dataclass(frozen=True)
class Cell:
    """One student: the recipes that train it, each from what the one before made, and its facts."""

    key: str
    """What finds its rows again: it changes with whatever decides its numbers."""
    name: str
    recipes: tuple[Recipe, ...]
    facts: Mapping[str, Any]
    """Columns of its rows."""
    tested: bool = True
    """Whether the test set is decoded; cells that choose settings are scored on dev alone."""
    until: int | None = None
    """The update after which its last training pauses, to be gone on with by another cell."""

    @property
    def run(self) -> RunDirectory:
        """Where its student is, or will be."""
        return RunDirectory(self.recipes[-1].output_dir)


def recipe_hash(recipe: Recipe, *facts: object) -> str:
    """Twelve hex digits of what a recipe sets, wherever it is written, and of further facts.

    Settings that it leaves at their defaults do not count.
    """
    settings = recipe.model_dump(mode="json", exclude_unset=True)
    settings.pop("output_dir", None)
    return of_settings([settings, *facts])[:_NUM_DIGITS]


def chained(
    recipes: Sequence[Recipe], folder: Path, *facts: object
) -> tuple[tuple[Recipe, ...], str]:
    """The recipes, each with a run directory in `folder`, and the hash of the whole chain.

    Each goes on from the student of the one before. A directory is named by the hash of what its
    recipe, those before it and the facts say, so that cells share what they train alike.
    """
    placed: list[Recipe] = []
    digest = ""
    for recipe in recipes:
        digest = recipe_hash(recipe, *facts, *([digest] if placed else []))
        update: dict[str, object] = {}
        if placed:
            before = RunDirectory(placed[-1].output_dir).student_path
            update["student"] = recipe.student.model_copy(update={"model": str(before)})
        update["output_dir"] = str(folder / f"{recipe.method}-seed{recipe.seed}-{digest}")
        placed.append(recipe.model_copy(update=update))
    return tuple(placed), digest


def run_cells(
    pending: Callable[[], Iterable[Cell]],
    measure: Callable[[Cell], list[Row]],
    keep: Callable[[Cell, list[Row]], None],
    *,
    jobs: int,
    until: float = float("inf"),
    tell: Callable[[str], None] = _LOG.info,
) -> dict[str, str]:
    """What went wrong, by the name of the cell. Runs cells until none is left.

    `pending` are those that can be stated with the rows kept so far and have none, in the order of
    running; it is asked again whenever one is done. `measure` runs in one of `jobs` processes,
    `keep` in this one. Two cells that write to the same run never do so at once. After `until`
    (monotonic seconds) none begins. A cell that failed is not tried again.
    """
    failed: dict[str, str] = {}
    running: dict[Future[list[Row]], Cell] = {}
    with pool_of(jobs) as pool:
        while True:
            begun = {*failed, *(cell.name for cell in running.values())}
            waiting = [cell for cell in pending() if cell.name not in begun]
            while len(running) < jobs and time.monotonic() < until:
                busy = {path for cell in running.values() for path in _writes(cell)}
                cell = next((cell for cell in waiting if not busy & _writes(cell)), None)
                if cell is None:
                    break
                waiting.remove(cell)
                tell(f"{cell.name}: begins, {len(waiting)} wait")
                running[pool.submit(measure, cell)] = cell
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell, error = running.pop(future), future.exception()
                if error is None:
                    keep(cell, future.result())
                    tell(f"{cell.name}: done")
                    continue
                failed[cell.name] = first_line(error)
                keep(cell, [{**cell.facts, "cell": cell.key, "error": first_line(error)}])
                _LOG.error("%s failed: %s", cell.name, first_line(error))
                if not isinstance(error, UserError):
                    _LOG.error("what led to it:", exc_info=error)


def train_cell(cell: Cell) -> list[RunDirectory]:
    """Trains what of a cell is not trained yet, each recipe in a fresh process; the last one until
    the cell pauses.

    What one training leaves in memory slows the next by a quarter.
    """
    runs = [RunDirectory(recipe.output_dir) for recipe in cell.recipes]
    for run, recipe in zip(runs, cell.recipes, strict=True):
        if not run.is_finished:
            until = cell.until if recipe is cell.recipes[-1] else None
            job = functools.partial(train, recipe, progress=NoProgress(), resume=True, until=until)
            with pool_of(1, threads=torch.get_num_threads()) as process:
                process.submit(job).result()
    return runs


def pool_of(jobs: int, *, threads: int | None = None) -> Executor:
    """Processes that share the cores; forked from one that has imported all and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    shared = threads or max(1, len(os.sched_getaffinity(0)) // jobs)
    return ProcessPoolExecutor(jobs, context, initializer=_begin, initargs=(shared,))


def _begin(threads: int) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:  # which may be killed at any moment
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _writes(cell: Cell) -> set[Path]:
    """What it measures, and what it has to train before."""
    runs = [RunDirectory(recipe.output_dir) for recipe in cell.recipes]
    return {cell.run.path, *(run.path for run in runs if not run.is_finished)}

"""Runs a paper's cells by the sweep's machinery, or goes on with them, and keeps their rows.

A cell is a chain of (preset, settings): each trains what the one before made, in a folder named by
the hash of its recipe, so that cells share what they train alike. Killed at any moment a run loses
at most what its cells did since their last checkpoint.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from experiments.estimates import differences_path, machines_of
from experiments.preparing import recipe_of
from experiments.shapes import Settings
from seqdistill.assembly.models import model_folder
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.generators import derived_seed
from seqdistill.core.progress import NoProgress
from seqdistill.jobs.cells import Cell, recipe_hash, run_cells, train_cell
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.sweep import measured_teacher, scored, systems_of_results
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import environment_facts, machine
from seqdistill.records.fingerprint import canonical_json, of_folder
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_facts, read_rows, write_rows

Stage = tuple[str, Settings]
"""A preset and the settings that a cell gives it."""
Found = Callable[[Cell], Row | None]
"""The row of a cell, where it was measured."""
OWN_NAMES = ("name", "method", "init")
"""Of a system in results.json: what rows say in their own words."""


class Task(Protocol):
    """What the runner asks of a task."""

    @property
    def name(self) -> str: ...
    @property
    def teacher(self) -> str: ...
    @property
    def folder(self) -> Path: ...


T = TypeVar("T", bound=Task)


def chain(
    task: Task, stages: Sequence[Stage], facts: Mapping[str, Any], *, tested: bool = True
) -> Cell:
    """The cell of these stages; `facts` are columns of its row, `name` among them."""
    teacher = of_folder(model_folder(task.teacher))
    recipes, before = [], None
    for preset, settings in stages:
        own: dict[str, object] = {**settings, "teacher.model": task.teacher, "seed": facts["seed"]}
        own["training.threads"] = 1
        if before is not None:
            own |= {"student.init": "pretrained", "student.model": str(before / "student")}
        recipe, digest = _hashed(preset, canonical_json(own), teacher)
        before = task.folder / "cells" / f"{preset}-seed{facts['seed']}-{digest}"
        recipes.append(recipe.model_copy(update={"output_dir": str(before)}))
    facts = {"task": task.name, **facts, "digest": digest}
    return Cell(digest, f"{task.name}/{facts['name']}", tuple(recipes), facts, tested)


@functools.lru_cache(maxsize=4096)
def _hashed(preset: str, settings: str, teacher: str) -> tuple[Recipe, str]:
    """Kept, since plans are asked again after every cell."""
    recipe = recipe_of(json.loads(settings), preset=preset)
    return recipe, recipe_hash(recipe, teacher)


def chosen_rate(
    rates: Sequence[float],
    cell: Callable[[float], Cell],
    found: Found,
    score: str,
    *,
    lower_is_better: bool,
    factor: float = 2.0,
    most_more: int = 2,
) -> Generator[Cell, None, float | None]:
    """Yields the cell of every rate that is to be tried, and returns the rate with the best score
    on dev, the first of equals; None while one of them has no row.

    While the best is the last or first of those tried, one beyond is tried, `factor` further: at
    most `most_more`, of both ends together.
    """
    tried, scores = sorted(rates), {}
    while True:
        for rate in tried:
            if rate not in scores:
                yield (trial := cell(rate))
                if (row := found(trial)) is not None:
                    scores[rate] = float(row[score])
        if len(scores) < len(tried):
            return None
        best = (min if lower_is_better else max)(tried, key=lambda rate: scores[rate])
        if len(tried) == len(rates) + most_more or best not in (tried[0], tried[-1]):
            return best
        if best == tried[-1]:
            tried.append(factor * best)
        else:
            tried.insert(0, best / factor)


def trained(cell: Cell) -> tuple[list[RunDirectory], Row]:
    """The runs of a cell, trained, and its row as far as training tells it."""
    runs = train_cell(cell)
    manifests = [run.read_manifest() for run in runs]
    training = [cast("dict[str, Any]", found["training"]) for found in manifests]
    kept = training[-1]["best"][0][1]
    scores = [
        row for row in runs[-1].read_metrics() if row["step"] == kept and "dev_loss_nats" in row
    ]
    row: Row = {**cell.facts, "machine": str(machine()["cpu_model"])}
    row["finished"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    row |= {key: value for key, value in scores[-1].items() if key.startswith("dev_")}
    row |= {"kept_update": kept, "precision": manifests[-1]["precision"]}
    row["seconds_training"] = round(sum(found["seconds"] for found in training), 1)
    row["tokens_training"] = sum(found["tokens"] for found in training)
    return runs, row


def tested(cell: Cell, run: RunDirectory, *, export: bool = False) -> dict[str, Row]:
    """What evaluation finds of the student and its teacher, and of the int8 copy with `export`."""
    evaluate_run(
        run,
        ["evaluation.include_start=false"],
        progress=NoProgress(),
        export=export,
        measured_teacher=measured_teacher(cell.recipes[-1]),
    )
    found = systems_of_results(run)
    if export:
        found["copy"] = run.read_results().exports[0].columns()
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return {role: {k: v for k, v in of.items() if k not in OWN_NAMES} for role, of in found.items()}


def write_differences(
    store: Path,
    cells: Mapping[str, Cell],
    keys: Sequence[str],
    held_against: Callable[[Row, Row], bool],
    modes: Sequence[tuple[str, str]],
) -> None:
    """Adds the intervals of differences of rows whose system was trained with one seed.

    A system has its own values under the keys; its bases are of the same seed, or the teacher.
    Both are scored on the same resampled test sets; where there are several seeds, the seeds tell.
    Rows whose outputs are no longer there keep the intervals that they have.
    """
    rows = [row for row in read_rows(store) if row["method"] == "teacher" or _name(row) in cells]
    systems = [tuple(row.get(key) for key in ("task", *keys)) for row in rows]
    seeds = Counter(systems)
    found = {_difference(row): row for row in read_rows(differences_path(store))}
    for row, system in zip(rows, systems, strict=True):
        if row["method"] == "teacher" or seeds[system] > 1:
            continue
        run = cells[_name(row)].run
        for base in rows:
            is_teacher = base["method"] == "teacher"
            alike = (is_teacher or base["seed"] == row["seed"]) and base["task"] == row["task"]
            if not alike or base["name"] == row["name"] or not held_against(row, base):
                continue
            # What the teacher wrote stands beside every student's outputs.
            other_run = run if is_teacher else cells[_name(base)].run
            if not (run.outputs_path.is_file() and other_run.outputs_path.is_file()):
                continue
            for own_mode, other_mode in modes:
                metric, _, own = scored(run, own_mode)
                _, _, other = scored(other_run, other_mode, "teacher" if is_teacher else None)
                interval = paired_bootstrap(
                    own,
                    other,
                    num_resamples=1000,
                    confidence=0.95,
                    generator=np.random.default_rng(derived_seed(1, "paired rows")),
                )
                new = {"task": row["task"], "name": row["name"], "metric": f"{metric}_{own_mode}"}
                new |= {"other": base["name"], "other_metric": f"{metric}_{other_mode}"}
                found[_difference(new)] = {**new, "low": interval.low, "high": interval.high}
    write_rows(differences_path(store), list(found.values()))


def _name(row: Row) -> str:
    return f"{row['task']}/{row['name']}"


def _difference(row: Row) -> tuple[object, ...]:
    return tuple(row[key] for key in ("task", "name", "metric", "other", "other_metric"))


def add_rows(store: Path, new: Sequence[Row], sizes: Mapping[str, Any] | None = None) -> None:
    """Writes the rows, each in place of the one of its task and name; all else stays."""
    kept = {(row["task"], row["name"]): row for row in read_rows(store)}
    kept |= {(row["task"], row["name"]): row for row in new}
    before, environment = read_facts(store), environment_facts()
    facts = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment,
        "machines": sorted({*machines_of(before), *machines_of({"environment": environment})}),
        "tasks": {**before.get("tasks", {}), **(sizes or {})},
    }
    write_rows(store, [kept[key] for key in sorted(kept)], facts)


def lookup(rows: Sequence[Row], *, by_name: bool) -> Found:
    """What finds the row of a cell: of the same name and, unless `by_name`, the same recipes."""
    known = {_name(row): row for row in rows}

    def found(cell: Cell) -> Row | None:
        row = known.get(cell.name)
        return row if row is not None and (by_name or row.get("digest") == cell.key) else None

    return found


def exit_if_failed(failed: Mapping[str, str]) -> None:
    """Ends the process with a sentence when cells failed: their errors by name."""
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        sys.exit(f"{len(failed)} cells failed ({told}). Run again to try them again.")


def run_experiment(
    description: str,
    tasks: Mapping[str, T],
    store: Path,
    plan: Callable[[T, Found], Iterator[Cell]],
    prepare: Callable[[T], Mapping[str, int]],
    measure: Callable[[Cell], list[Row]],
    finish: Callable[[T, Mapping[str, Cell]], None],
    write_page: Callable[[Path], None],
) -> None:
    """The command line: prepares the chosen tasks, runs their cells, compares, writes the page.

    Exits with a sentence when cells failed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("tasks", nargs="*", choices=[*tasks, []], metavar="TASK")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    parser.add_argument("--list", action="store_true", help="show what waits, and stop")
    parser.add_argument(
        "--by-name", action="store_true", help="take rows as they are, whatever recipe made them"
    )
    options = parser.parse_args()
    chosen = [tasks[name] for name in options.tasks or tasks]

    def cells(task: T) -> list[Cell]:
        return list(plan(task, lookup(read_rows(store), by_name=options.by_name)))

    def pending() -> list[Cell]:
        found = lookup(read_rows(store), by_name=options.by_name)
        planned = {cell.name: cell for task in chosen for cell in plan(task, found)}
        return [cell for cell in planned.values() if found(cell) is None]

    if options.list:
        print("".join(f"{cell.name}\n" for cell in pending()), end="")
        return
    keep_freed_memory()
    for task in chosen:
        add_rows(store, [], {task.name: dict(prepare(task))})
    failed = run_cells(
        pending,
        measure,
        lambda _cell, rows: add_rows(store, [row for row in rows if "error" not in row]),
        jobs=options.jobs,
        until=time.monotonic() + 60 * options.minutes,
        tell=print,
    )
    for task in chosen:
        finish(task, {cell.name: cell for cell in cells(task)})
    write_page(store)
    exit_if_failed(failed)

"""A race: methods x rates by successive halving on dev, then the last few measured on the test set.

Each candidate is one run whose schedule is that of the whole race: it pauses at the end of a rung
and, if it is among the best, goes on from its checkpoint. So what the winner cost was not lost, and
a race that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import seqdistill
from seqdistill.core.errors import UserError
from seqdistill.jobs.cells import Cell, chained, run_cells, train_cell
from seqdistill.jobs.race_plan import Race, RacePlan, write_plan
from seqdistill.jobs.sweep import (
    DIFFERENCES,
    ROWS,
    dev_metric,
    dev_score,
    differences,
    keeper,
    measured_rows,
    paired_gains,
    scored,
)
from seqdistill.metrics.corpus_metrics import score_key_of
from seqdistill.recipe.racing import BASELINE, RATE, candidate, raced_methods
from seqdistill.recipe.sweep_schema import START, Sweep
from seqdistill.recipe.writing import write_recipe
from seqdistill.records import atomic
from seqdistill.records.locks import held
from seqdistill.records.tables import Row, read_rows, write_rows
from seqdistill.report.recommendation import Finalist, in_words, recommended
from seqdistill.report.sweep_page import sweep_page

PAGE, RECOMMENDED = "race.html", "recommended.yaml"


@dataclasses.dataclass(frozen=True)
class RaceResult:
    """What to go on with and why, and where all of it is written."""

    words: list[str]
    recipe: Path
    student: Path
    rows: Path
    page: Path
    failed: Mapping[str, str]


def run_race(
    race: Race, plan: RacePlan, *, jobs: int = 1, tell: Callable[[str], None] = lambda _line: None
) -> RaceResult:
    """Runs what is missing of the plan, in `jobs` processes, and writes what to go on with.

    A candidate that fails drops out. Raises UserError where none comes to the end, and while
    another process runs this race.
    """
    folder = race.folder
    folder.mkdir(parents=True, exist_ok=True)
    path, page = folder / ROWS, folder / PAGE
    cells = _cells(race, plan)
    with held(folder, "racing"):
        write_plan(race, plan)
        _forget_failures(path)
        order = [_at(c, plan, n).key for n in range(len(plan.rungs)) for c in cells]
        order += [cell.key for cell in cells]
        failed = run_cells(
            lambda: _standing(plan, cells, read_rows(path))[1],
            _measured,
            keeper(path, {key: number for number, key in enumerate(order)}),
            jobs=jobs,
            tell=tell,
        )
        rows = read_rows(path)
        errors = {row["cell"]: row["error"] for row in rows if "error" in row}
        last = [cell for cell in _standing(plan, cells, rows)[0] if cell.key not in errors]
        if not last:
            raise UserError(
                "a candidate must come to the end of a race, but all failed "
                f"({next(iter(errors.values()))}); fix the cause and run it again"
            )
        sweep, compared = _compared(race, plan, last, rows)
        write_rows(folder / DIFFERENCES, compared)
        metric, finalists = _finalists(last, compared)
        words = in_words(metric, finalists, sweep.base)
        best = next(c for c in last if c.facts["method"] == recommended(finalists).method)
        recipe = best.recipes[-1].model_copy(update={"output_dir": str(folder / "recommended")})
        atomic.write_text(folder / RECOMMENDED, write_recipe(recipe))
        atomic.write_text(page, sweep_page(rows, compared, sweep, words))
    return RaceResult(words, folder / RECOMMENDED, best.run.student_path, path, page, failed)


def survivors(ranked: Sequence[Cell], count: int, *, one_each: bool) -> list[Cell]:
    """Those that go on of cells from the best to the worst: the first `count`, and the best of the
    baseline in the place of the last where it is not among them.

    With `one_each` only the best of every method counts.
    """
    if one_each:
        firsts: dict[str, Cell] = {}
        for cell in ranked:
            firsts.setdefault(cell.facts["method"], cell)
        ranked = list(firsts.values())
    kept = list(ranked[:count])
    base = next((cell for cell in ranked if cell.facts["method"] == BASELINE), None)
    return kept if base is None or base in kept else [*kept[:-1], base]


def _cells(race: Race, plan: RacePlan) -> list[Cell]:
    """Every candidate as it is when it comes to the end, the cheaper methods first."""
    recipes = raced_methods(race.recipe, plan.methods)
    cells = []
    for name, rate in ((name, rate) for name in plan.methods for rate in plan.rates):
        recipe = candidate(recipes[name], rate, plan.rungs, plan.eval_metric)
        placed, digest = chained([recipe], race.folder / "cells")
        facts = {"method": name, RATE: rate, "seed": recipe.seed}
        cells.append(Cell(f"{name}-{digest}", f"{name}, {RATE}={rate:g}", placed, facts))
    return cells


def _at(cell: Cell, plan: RacePlan, number: int) -> Cell:
    """The cell until the end of a rung, to be scored on dev."""
    until = plan.rungs[number].until
    return dataclasses.replace(
        cell,
        key=f"{cell.key}@{until}",
        name=f"rung {number + 1}, {cell.name}",
        facts={**cell.facts, "rung": number + 1},
        until=until,
        tested=False,
    )


def _standing(
    plan: RacePlan, cells: Sequence[Cell], rows: Sequence[Row]
) -> tuple[list[Cell], list[Cell]]:
    """Those that came to the end, and what is to be done next: a rung's cells, or the test set."""
    there = {row["cell"]: row for row in rows}
    alive = list(cells)
    for number, rung in enumerate(plan.rungs):
        if number:
            alive = survivors(alive, rung.count, one_each=rung is plan.rungs[-1])
        found = {cell.key: there.get(_at(cell, plan, number).key) for cell in alive}
        if missing := [_at(cell, plan, number) for cell in alive if found[cell.key] is None]:
            return [], missing
        worth = {key: row["worth"] for key, row in found.items() if row and "worth" in row}
        alive = [cell for cell in alive if cell.key in worth]
        alive.sort(key=lambda cell: -worth[cell.key])
    last = survivors(alive, len(alive), one_each=True)
    return last, [cell for cell in last if cell.key not in there]


def _forget_failures(path: Path) -> None:
    """Failures that nobody has gone on after are tried again."""
    rows = read_rows(path)
    last = max((row.get("rung", 0) for row in rows), default=0)
    tested = any(row["split"] == "test" for row in rows)

    def is_decided(row: Row) -> bool:
        return "rung" in row and (tested or row["rung"] < last)

    if rows:
        write_rows(path, [row for row in rows if "error" not in row or is_decided(row)])


def _measured(cell: Cell) -> list[Row]:
    """Its rows on the test set, or that of the best score on dev until it pauses."""
    if cell.tested:
        return measured_rows(cell, with_start=True)
    began = time.monotonic()
    run = train_cell(cell)[-1]
    seconds = round(time.monotonic() - began, 2)
    metric = dev_metric(run)
    scores = {
        cast("int", row["step"]): float(str(row[f"dev_{metric}"]))
        for row in run.read_metrics()
        if f"dev_{metric}" in row and cast("int", row["step"]) <= cast("int", cell.until)
    }
    facts = {"cell": cell.key, **cell.facts, "steps": max(scores), "seconds": seconds}
    best = max(scores.values(), key=score_key_of(metric))
    return [{**facts, "version": seqdistill.__version__, **dev_score(run, best)}]


def _compared(
    race: Race, plan: RacePlan, last: Sequence[Cell], rows: Sequence[Row]
) -> tuple[Sweep, list[Row]]:
    """The last ones as a sweep of methods, and by how much they are better than the baseline and
    than the student before its first update."""
    methods = {cell.facts["method"]: cell.facts["method"] for cell in last}
    starts = any(row.get("system") == START for row in rows)
    sweep = Sweep.model_validate(
        {
            "output_dir": str(race.folder),
            "methods": methods,
            "choose": {RATE: list(plan.rates)},
            "seeds": [race.recipe.seed],
            "baseline": BASELINE if BASELINE in methods else None,
            "start": START if starts else None,
        }
    )
    compared = differences(sweep, {cell.name: cell for cell in last}, rows)
    for cell in last if starts else ():
        gains = paired_gains(cell.run, cell.run, START)
        compared += [{**cell.facts, **row, "baseline": START, "num_seeds": 1} for row in gains]
    return sweep, compared


def _finalists(last: Sequence[Cell], compared: Sequence[Row]) -> tuple[str, list[Finalist]]:
    """The metric that is compared, and the last ones, the best on the test set first."""
    found = {cell.key: scored(cell.run, "beam") for cell in last}
    metric, sign, _ = found[last[0].key]
    value = {key: statistics.score().value for key, (_, _, statistics) in found.items()}
    ordered = sorted(last, key=lambda cell: -sign * value[cell.key])
    name, finalists = f"{metric}_beam", []
    for cell in ordered:
        behind = [row for row in paired_gains(ordered[0].run, cell.run) if row["metric"] == name]
        training: Any = cell.run.read_manifest()["training"]
        gains = {
            row["baseline"]: row
            for row in compared
            if row["metric"] == name and row["method"] == cell.facts["method"]
        }
        finalists.append(
            Finalist(
                cell.facts["method"],
                f"{RATE}={cell.facts[RATE]:g}",
                value[cell.key],
                float(training["seconds"]),
                gains,
                is_equal=behind[0]["low"] <= 0.0,
            )
        )
    return name, finalists

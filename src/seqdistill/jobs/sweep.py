"""A sweep: every method x settings x seed trained and measured, and one table of what was found.

First each method chooses on dev, then the chosen students are measured on the test set, then the
page is written. Goes on where it stopped: a cell whose recipe has rows is not run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import seqdistill
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import trusts_code
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import NoProgress
from seqdistill.evaluation.systems import SystemResult, evaluate_system
from seqdistill.jobs.cells import Cell, recipe_hash, run_cells, train_cell
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.sweep_differences import differences
from seqdistill.jobs.systems import system_under_test
from seqdistill.metrics.corpus_metrics import score_key_of
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.sweep_schema import Sweep, Trial, trials
from seqdistill.records import atomic
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.locks import held
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_rows, write_rows
from seqdistill.report.sweep_page import sweep_page

ROWS, DIFFERENCES, PAGE = "rows.parquet", "differences.parquet", "sweep.html"
_NOT_A_SCORE = ("_low", "_high", "_sentences")
_TEACHERS: dict[str, SystemResult] = {}


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Where a sweep's rows and page are, and what failed: the error by the name of the cell."""

    rows: Path
    page: Path
    failed: Mapping[str, str]


def planned_cells(sweep: Sweep) -> dict[str, Cell]:
    """Every student that the sweep may train, by its name.

    Raises RecipeError with what is wrong with any of them; writes nothing.
    """
    cells: dict[str, Cell] = {}
    problems: dict[str, str] = {}
    judges: dict[str, tuple[str, str]] = {}
    for trial in trials(sweep):
        try:
            cells[trial.name] = _cell(sweep, trial)
        except RecipeError as error:
            problems.setdefault(str(error), trial.name)
            continue
        judged = _judged_by(cells[trial.name].recipes[0])
        first_name, first = judges.setdefault(str(trial.varied), (trial.name, judged))
        if judged != first:
            sentence = (
                "evaluation.metrics must begin with one metric and data.test be one file where "
                f"methods are compared, got {judged} and {first} of {first_name}; "
                "set both in the sweep's settings"
            )
            problems.setdefault(sentence, trial.name)
    if problems:
        raise RecipeError("; ".join(f"{name}: {error}" for error, name in problems.items()))
    return cells


def run_sweep(
    sweep: Sweep, *, jobs: int = 1, tell: Callable[[str], None] = lambda _line: None
) -> SweepResult:
    """Runs what is missing, in `jobs` processes, and writes rows and page.

    Raises RecipeError, before anything runs, for a cell that no recipe allows, and UserError while
    another process runs this sweep.
    """
    cells = planned_cells(sweep)
    folder = Path(sweep.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, page = folder / ROWS, folder / PAGE
    place = {cell.key: number for number, cell in enumerate(cells.values())}
    with held(folder, "sweeping"):

        def keep(cell: Cell, new: list[Row]) -> None:
            rows = [row for row in read_rows(path) if _identity(row) != (cell.key, cell.tested)]
            rows += [{**row, "split": "test" if cell.tested else "dev"} for row in new]
            write_rows(path, sorted(rows, key=lambda r: (r["split"], place.get(r["cell"], -1))))

        failed = run_cells(
            lambda: list(_pending(sweep, cells, read_rows(path))),
            measured_rows,
            keep,
            jobs=jobs,
            tell=tell,
        )
        rows = [row for row in read_rows(path) if row["cell"] in place]
        compared = differences(sweep, cells, rows)
        write_rows(folder / DIFFERENCES, compared)
        atomic.write_text(page, sweep_page(rows, compared, sweep))
    return SweepResult(path, page, failed)


def _cell(sweep: Sweep, trial: Trial) -> Cell:
    recipe = load_recipe(trial.recipe, trial.overrides, purpose="measure")
    key = recipe_hash(recipe, trial.method)
    folder = Path(sweep.output_dir) / "cells" / f"{trial.method}-seed{trial.seed}-{key}"
    recipe = load_recipe(trial.recipe, [*trial.overrides, f"output_dir={folder}"])
    facts = {"method": trial.method, **trial.varied, **trial.chosen, "seed": trial.seed}
    return Cell(key, trial.name, (recipe,), facts)


def _judged_by(recipe: Recipe) -> str:
    return f"{recipe.evaluation.metrics[0]} on {recipe.data.test}"


def _identity(row: Row) -> tuple[str, bool]:
    return row["cell"], row["split"] == "test"


def _pending(sweep: Sweep, cells: Mapping[str, Cell], rows: Sequence[Row]) -> Iterator[Cell]:
    """What is missing: what chooses first, then, once a method has chosen, its students."""
    there = {_identity(row) for row in rows if "error" not in row}
    tried = {_identity(row) for row in rows}
    scores = {row["cell"]: row["worth"] for row in rows if "worth" in row}
    chosen: list[Cell] = []
    for name, method in sweep.methods.items():
        shared = {**sweep.settings, **method.settings}
        for varied in sweep.combinations():
            options = [
                [
                    cells[Trial(name, method.recipe, varied, candidate, seed, shared).name]
                    for seed in sweep.seeds
                ]
                for candidate in sweep.candidates()
            ]
            if len(options) > 1:
                pilots = [dataclasses.replace(found[0], tested=False) for found in options]
                for pilot in pilots:
                    if (pilot.key, False) not in there:
                        yield dataclasses.replace(pilot, name=f"{pilot.name} (dev)")
                if any((pilot.key, False) not in tried for pilot in pilots):
                    continue
                options = [found for found in options if found[0].key in scores]
            if options:
                best: list[Cell] = max(options, key=lambda of: scores.get(of[0].key, 0.0))
                chosen += best
    yield from (cell for cell in chosen if (cell.key, True) not in there)


def measured_rows(cell: Cell) -> list[Row]:
    """Trains a cell and measures it: one row a system and metric, or one of its score on dev."""
    (run,) = train_cell(cell)
    manifest = run.read_manifest()
    training = cast("dict[str, Any]", manifest["training"])
    facts = {
        "cell": cell.key,
        **cell.facts,
        "steps": training["updates"],
        "seconds": training["seconds"],
        "version": seqdistill.__version__,
    }
    if not cell.tested:
        metric = str(cast("dict[str, Any]", manifest["judging"])["eval_metric"])
        score = float(training["best"][0][0])
        worth = score_key_of("loss_nats" if metric == "loss" else metric)(score)
        return [{**facts, "system": "student", "metric": metric, "value": score, "worth": worth}]
    recipe = cell.recipes[-1]
    evaluate_run(
        run,
        ["evaluation.include_start=false"],
        progress=NoProgress(),
        measured_teacher=measured_teacher(recipe) if recipe.teacher.model else None,
        trust_remote_code=trusts_code(recipe),
    )
    return [
        {**facts, "parameters": system["parameters"], "system": role, **score}
        for role, system in systems_of_results(run).items()
        for score in _scores(system)
    ]


def systems_of_results(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """What results.json says of the run's teacher, where there is one, and of its student."""
    systems = [system.columns() for system in run.read_results().systems]
    return {"teacher" if s["method"] == "teacher" else "student": s for s in systems}


def measured_teacher(recipe: Recipe) -> SystemResult:
    """The recipe's teacher on its test set, decoded once by each process for all its cells."""
    sections = (recipe.teacher, recipe.data, recipe.evaluation, recipe.seed)
    key = of_settings(
        [part if isinstance(part, int) else part.model_dump(mode="json") for part in sections]
    )
    if key not in _TEACHERS:
        examples = read_split(recipe, "test")
        system = system_under_test(
            "teacher",
            str(recipe.teacher.model),
            "trained",
            recipe,
            examples,
            trust_remote_code=trusts_code(recipe),
        )
        _TEACHERS[key] = evaluate_system(
            system,
            [example.target or "" for example in examples],
            evaluation_settings(recipe, examples, system.model.kind),
            teacher=None,
        )
    return _TEACHERS[key]


def _scores(system: Mapping[str, Any]) -> Iterator[Row]:
    """Every number of a system with the ends of its interval, where it has one."""
    for key, value in system.items():
        if isinstance(value, float) and not key.endswith(_NOT_A_SCORE):
            ends = {end: system.get(f"{key}_{end}") for end in ("low", "high")}
            yield {"metric": key, "value": value, **ends}

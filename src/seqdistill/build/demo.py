"""The whole job in one call: train the compared students, measure, choose, export, report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from seqdistill.build.evaluation import evaluate_run
from seqdistill.build.exporting import export_int8
from seqdistill.build.running import train
from seqdistill.build.timings import timed
from seqdistill.core.errors import UserError
from seqdistill.core.progress import Progress
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import write_report


def best_student(results: dict[str, object]) -> str:
    """The name of the student with the highest beam BLEU, distilled or not."""
    rows = cast("list[dict[str, object]]", results["systems"])
    students = [row for row in rows if row["method"] != "teacher"]
    if not students:
        raise UserError("A comparison must hold a student, but results.json lists none.")
    return str(max(students, key=lambda row: cast("float", row["bleu_beam"]))["name"])


def run_recipe(recipe: Recipe, *, progress: Progress, resume: bool = False) -> RunDirectory:
    """Trains, evaluates, exports the best student to int8 and writes the report.

    The best student of a comparison is copied to `student/` of its run directory; its int8 copy
    lies beside it in `student-int8/`.
    """
    run = train(recipe, progress=progress, resume=resume)
    results = evaluate_run(run, progress=progress)
    chosen = best_student(results)
    if recipe.compare:
        _copy_folder(run.member(chosen).student_path, run.student_path)
    progress.start("int8 copy and report", 2)
    with timed(run, "export int8"):
        export = export_int8(recipe, run.student_path, run.path / "student-int8")
    progress.advance(1, "int8")
    run.write_results({**results, "student": chosen, "exports": [{"system": chosen, **export}]})
    with timed(run, "report"):
        write_report(run.path)
    progress.advance(1, "report")
    progress.finish()
    return run


def run_demo(overrides: Sequence[str], *, progress: Progress, resume: bool = False) -> RunDirectory:
    """The preset `demo` with overrides, from nothing to the report."""
    return run_recipe(load_recipe("demo", overrides), progress=progress, resume=resume)


def _copy_folder(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    with atomic.new_folder(target) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)

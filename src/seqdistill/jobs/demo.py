"""The whole job in one call: train the compared students, measure, choose, export, report."""

from __future__ import annotations

import shutil

from seqdistill.assembly.models import trusts_code
from seqdistill.core.progress import Progress
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.timings import timed
from seqdistill.jobs.train import train
from seqdistill.recipe.schema import Recipe
from seqdistill.records import atomic
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.report import write_report


def run_recipe(recipe: Recipe, *, progress: Progress, resume: Resume = False) -> RunDirectory:
    """Trains, evaluates, exports the best student to int8 and writes the report.

    The best student of a comparison is copied to `student/` of its run directory; its int8
    CTranslate2 copy lies beside it in `student-int8/`, unless the recipe evaluates with
    transformers, or `auto` does for a model that CTranslate2 cannot run.
    """
    run = train(recipe, progress=progress, resume=resume)
    with_copy = recipe.evaluation.engine != "transformers"
    results = evaluate_run(
        run, progress=progress, export=with_copy, trust_remote_code=trusts_code(recipe)
    )
    if recipe.compare:
        with atomic.replaced_folder(run.student_path) as aside:
            best = run.member(str(results.student)).student_path
            shutil.copytree(best, aside, dirs_exist_ok=True)
    with timed(run, "report"):
        write_report(run.path)
    return run

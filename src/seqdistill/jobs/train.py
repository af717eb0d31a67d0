"""Trains what a recipe stands for: one student, a chain of stages, or each of a comparison."""

from __future__ import annotations

import contextlib

from accelerate import PartialState

from seqdistill.core.errors import UserError
from seqdistill.core.progress import NamedProgress, Progress
from seqdistill.jobs.stages import train_stages
from seqdistill.jobs.timings import take_over_timings
from seqdistill.jobs.training import only_writer, open_run, train_student
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.systems import compare_member
from seqdistill.recipe.writing import write_recipe
from seqdistill.records.environment import environment_facts
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.training.processes import check_launch


def train(recipe: Recipe, *, progress: Progress, resume: Resume = False) -> RunDirectory:
    """The run directory of the trained student, or of the comparison with a sub-run a method.

    Raises UserError, before anything is written, for whatever cannot work. With `resume`, finished
    students are kept and an unfinished one goes on from its newest checkpoint.
    """
    check_launch()
    check_recipe(recipe)
    if recipe.stages:
        return train_stages(recipe, progress=progress, resume=resume)
    if not recipe.compare:
        return train_student(recipe, progress=progress, resume=resume)
    with only_writer(recipe) as processes:
        run = open_run(recipe, resume=resume)
        is_new = not (resume and run.is_begun)
        processes.wait_for_everyone()  # all have looked before the first one writes
        if is_new and processes.is_main_process:
            RunDirectory.create(run.path)
            run.write_recipe(write_recipe(recipe))
        for preset in recipe.compare:
            _train_member(compare_member(recipe, preset), run, processes, progress, resume=resume)
        if processes.is_main_process:
            run.update_manifest({"environment": environment_facts()})
        return run


def _train_member(
    member: Recipe,
    run: RunDirectory,
    processes: PartialState,
    progress: Progress,
    *,
    resume: Resume,
) -> None:
    path = run.member(member.method).path
    try:
        train_student(member, progress=NamedProgress(progress, member.method), resume=resume)
    except UserError:
        # Refused before it began: leave nothing.
        if processes.is_main_process and not path.exists() and not run.members():
            run.recipe_path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                run.path.rmdir()
        raise
    if processes.is_main_process:
        take_over_timings(run, run.member(member.method), member.method)

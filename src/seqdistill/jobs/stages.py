"""Trains chains: each stage as an ordinary run, kept by its content, and the chain's own folder.

    stages/<method>-<digest>/   the run of one stage, shared by all chains beside it
    <output_dir>/               recipe, manifest, metrics of all stages, the last stage's student

A stage that is there is used, one that was begun goes on, so a changed stage costs itself and what
follows. What a stage does is not known here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Sequence
from typing import cast

from accelerate import PartialState

from seqdistill.assembly.preparing import prepare
from seqdistill.core.progress import Progress
from seqdistill.jobs.named_progress import NamedProgress
from seqdistill.jobs.stage_runs import StageRun, newest_student, stage_run, unfinished_recipes
from seqdistill.jobs.timings import add_timings, timings_of
from seqdistill.jobs.training import only_writer, open_run, train_as_only_writer
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.writing import write_recipe
from seqdistill.records import atomic
from seqdistill.records.environment import environment_facts
from seqdistill.records.locks import exclusive_lock
from seqdistill.records.run_directory import Resume, RunDirectory

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Trained:
    """A stage whose student is there, and whether it was there before."""

    stage: StageRun
    preset: str
    reused: bool


def train_stages(recipe: Recipe, *, progress: Progress, resume: Resume = False) -> RunDirectory:
    """The run directory of a chain, its student trained through all stages.

    Finished stages are used as they are, whoever trained them, and an unfinished one goes on from
    its newest checkpoint. The chain's folder appears, whole, when the last stage is trained; with
    `resume` it may exist and is brought up to date. Raises UserError, before anything is written,
    for whatever cannot work in any of the stages.
    """
    with only_writer(recipe) as processes:
        return _train_stages(recipe, processes, progress=progress, resume=resume)


def _train_stages(
    recipe: Recipe, processes: PartialState, *, progress: Progress, resume: Resume
) -> RunDirectory:
    run = open_run(recipe, resume=resume)
    for ahead in unfinished_recipes(recipe):
        prepare(ahead)
    processes.wait_for_everyone()  # all have looked before the first one writes
    trained: list[_Trained] = []
    for index, given in enumerate(recipe.stages):
        start_from = newest_student([before.stage for before in trained])
        stage = stage_run(recipe, index, start_from=start_from)
        title = f"stage {index + 1} of {len(recipe.stages)}, {stage.recipe.method}"
        reused = _train_stage(stage, processes, NamedProgress(progress, title), resume or True)
        trained.append(_Trained(stage, given.preset, reused))
    if processes.is_main_process:
        _write_run(run, recipe, trained)
    processes.wait_for_everyone()
    return run


def _train_stage(
    stage: StageRun, processes: PartialState, progress: Progress, resume: Resume
) -> bool:
    """Sees to it that the stage's student is there. True when it was there already."""
    is_main = processes.is_main_process
    with exclusive_lock(stage.run.path, "training in") if is_main else contextlib.nullcontext():
        if is_main and not stage.is_finished:
            _make_resumable(stage)
        processes.wait_for_everyone()
        reused = stage.is_finished
        if reused:
            _LOG.info("using the stage in %s", stage.run.path)
            progress.start("cached", stage.recipe.training.steps)
            progress.advance(_num_updates(stage))
            progress.finish()
        else:
            train_as_only_writer(stage.recipe, progress=progress, resume=resume)
        processes.wait_for_everyone()
    return reused


def _make_resumable(stage: StageRun) -> None:
    """Readies the folder of a stage that another process may have begun."""
    atomic.remove_left_overs(stage.run.path)
    atomic.remove_left_overs(stage.run.checkpoints_path)
    if stage.run.recipe_path.exists():
        # The settings and contents are equal, but data or models may lie elsewhere now.
        stage.run.write_recipe(write_recipe(stage.recipe))


def _num_updates(stage: StageRun) -> int:
    """How many updates a finished stage had: fewer than asked for when it stopped early."""
    training = cast("dict[str, int]", stage.run.read_manifest()["training"])
    return training["updates"]


def _write_run(run: RunDirectory, recipe: Recipe, trained: Sequence[_Trained]) -> None:
    """Makes the chain's folder, or brings the one that is there up to date."""
    if run.recipe_path.exists():
        if _last_digest(run) != trained[-1].stage.digest:
            for path in (run.results_path, run.samples_path, run.outputs_path, run.report_path):
                path.unlink(missing_ok=True)  # they are about another student
        _assemble(run, trained)
        return
    run.check_free()
    with atomic.new_folder(run.path) as aside:
        made = RunDirectory(aside)
        made.write_recipe(write_recipe(recipe))
        _assemble(made, trained)


def _last_digest(run: RunDirectory) -> object:
    stages = run.read_manifest().get("stages")
    return stages[-1].get("digest") if isinstance(stages, list) else None


def _assemble(run: RunDirectory, trained: Sequence[_Trained]) -> None:
    """Writes what the stages made together: metrics, student, timings, and which stages they are.

    The manifest comes last, so that a process killed before it leaves the old digests standing.
    """
    _write_metrics(run, [found.stage for found in trained])
    with atomic.replaced_folder(run.student_path) as aside:
        shutil.copytree(trained[-1].stage.run.student_path, aside, dirs_exist_ok=True)
    for number, found in enumerate(trained, start=1):
        name = f"stage {number}, {found.stage.recipe.method}"
        rows = timings_of(found.stage.run)
        add_timings(run, [{**row, "step": f"{name}: {row['step']}"} for row in rows])
    stages = [
        {
            "preset": found.preset,
            "method": found.stage.recipe.method,
            "folder": os.path.relpath(found.stage.run.path, run.path),
            "reused": found.reused,
            "digest": found.stage.digest,
        }
        for found in trained
    ]
    facts = {"environment": environment_facts(), "stages": stages, "finished": True}
    judging = trained[-1].stage.run.read_manifest().get("judging")
    run.update_manifest(facts if judging is None else {**facts, "judging": judging})


def _write_metrics(run: RunDirectory, stages: Sequence[StageRun]) -> None:
    """The metrics of all stages, each row with its stage, the steps counted on."""
    lines, done = [], 0
    for index, stage in enumerate(stages):
        for row in stage.run.read_metrics():
            step = cast("int", row["step"]) + done
            lines.append(json.dumps({**row, "step": step, "stage": index}, ensure_ascii=False))
        done += _num_updates(stage)
    atomic.write_text(run.metrics_path, "".join(f"{line}\n" for line in lines))

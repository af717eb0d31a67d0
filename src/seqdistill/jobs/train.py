"""Trains what a recipe stands for: one student, a chain of stages, or each of a comparison.

Each stage of a chain is an ordinary run inside the chain's, from the student before:
<output_dir>/1-seq_kd/              the run of the first stage
<output_dir>/2-seq_inter/           the run of the second
<output_dir>/student, metrics.jsonl the last stage's student, and the metrics of all stages
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Sequence
from typing import cast

from accelerate import PartialState

from seqdistill.assembly.preparing import prepare
from seqdistill.core.errors import UserError
from seqdistill.core.progress import NamedProgress, Progress
from seqdistill.jobs.inputs import INPUTS, check_inputs, inputs_of
from seqdistill.jobs.logs import take_over_timings
from seqdistill.jobs.run_folders import only_writer, open_run
from seqdistill.jobs.training import (
    train_as_only_writer,
    train_student,
)
from seqdistill.recipe.loading import check_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import stage_recipe
from seqdistill.recipe.systems import compare_member, output_folder
from seqdistill.recipe.writing import write_recipe
from seqdistill.records import atomic
from seqdistill.records.environment import environment_facts
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.training.processes import check_launch

_LOG = logging.getLogger(__name__)


def train(
    recipe: Recipe, *, progress: Progress, resume: Resume = False, until: int | None = None
) -> RunDirectory:
    """The run directory of the trained student, or of the comparison with a sub-run a method.

    Raises UserError, before anything is written, for whatever cannot work. With `resume`, finished
    students are kept and an unfinished one goes on from its newest checkpoint. With `until` one
    that is no chain and no comparison pauses after that update.
    """
    check_launch()
    check_recipe(recipe)
    if recipe.stages:
        return _train_stages(recipe, progress=progress, resume=resume)
    if not recipe.compare:
        return train_student(recipe, progress=progress, resume=resume, until=until)
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


def _train_stages(recipe: Recipe, *, progress: Progress, resume: Resume = False) -> RunDirectory:
    """The run directory of a chain, its student trained through all stages.

    With `resume`, stages that are finished are used as they are and an unfinished one goes on from
    its newest checkpoint. Raises UserError, before anything is written, for whatever cannot work in
    any of the stages, and for a stage that was begun with another recipe, data or models.
    """
    run, stages = RunDirectory(output_folder(recipe)), _stage_recipes(recipe)
    with only_writer(recipe) as processes:
        if not resume:
            run.check_free()
        for stage in stages:
            open_run(stage, resume=True)
        for ahead in _unfinished(recipe, stages)[1:]:  # the first is prepared to be trained
            prepare(ahead)
        processes.wait_for_everyone()  # all have looked before the first one writes
        reused = []
        for number, stage in enumerate(stages, start=1):
            named = NamedProgress(progress, f"stage {number} of {len(stages)}, {stage.method}")
            reused.append(_train_stage(stage, processes, named, resume or True))
        if processes.is_main_process:
            _write_run(run, recipe, stages, reused)
        processes.wait_for_everyone()
    return run


def _stage_recipes(recipe: Recipe) -> list[Recipe]:
    """The recipes of all stages, each with its own run directory, from the student before it."""
    stages: list[Recipe] = []
    for index in range(len(recipe.stages)):
        before = str(RunDirectory(stages[-1].output_dir).student_path) if stages else None
        stage = stage_recipe(recipe, index, start_from=before)
        folder = output_folder(recipe) / f"{index + 1}-{stage.method}"
        stages.append(stage.model_copy(update={"output_dir": str(folder)}))
    return stages


def _unfinished(recipe: Recipe, stages: Sequence[Recipe]) -> list[Recipe]:
    """The recipes of the other stages, to be checked before any of them is trained.

    Where a stage will start from a student that does not exist yet, its recipe starts from the
    newest that does, or from the chain's first weights, which have the same shape and vocabulary.
    """
    runs = [RunDirectory(stage.output_dir) for stage in stages]
    done = next((n for n, run in enumerate(runs) if not run.is_finished), len(runs))
    start_from = str(runs[done - 1].student_path) if done else None
    return [stage_recipe(recipe, n, start_from=start_from) for n in range(done, len(stages))]


def _train_stage(
    stage: Recipe, processes: PartialState, progress: Progress, resume: Resume
) -> bool:
    """Sees to it that the stage's student exists. True when it did already."""
    run = RunDirectory(stage.output_dir)
    reused = run.is_finished
    if processes.is_main_process:
        if reused:
            check_inputs(run, inputs_of(stage))
            _LOG.info("using the stage in %s", run.path)
            progress.start("finished before", stage.training.steps)
            progress.advance(_num_updates(run))
            progress.finish()
        else:
            atomic.remove_left_overs(run.path)
            atomic.remove_left_overs(run.checkpoints_path)
    processes.wait_for_everyone()
    train_as_only_writer(stage, progress=progress, resume=resume)  # a damaged student is remade
    processes.wait_for_everyone()
    return reused


def _num_updates(run: RunDirectory) -> int:
    """How many updates a finished stage had: fewer than asked for when it stopped early."""
    return cast("int", _outcome(run)["updates"])


def _outcome(run: RunDirectory) -> dict[str, object]:
    return cast("dict[str, object]", run.read_manifest()["training"])


def _write_run(
    run: RunDirectory, recipe: Recipe, stages: Sequence[Recipe], reused: Sequence[bool]
) -> None:
    """Writes what the stages made together: metrics, alarms, student, timings, and which stages
    they are.

    The manifest comes last: a chain whose process was killed before is not finished.
    """
    if not all(reused):
        for path in (run.results_path, run.samples_path, run.outputs_path, run.report_path):
            path.unlink(missing_ok=True)  # they are about another student
    run.write_recipe(write_recipe(recipe))
    runs = [RunDirectory(stage.output_dir) for stage in stages]
    _write_logs(run, runs)
    with atomic.replaced_folder(run.student_path) as aside:
        shutil.copytree(runs[-1].student_path, aside, dirs_exist_ok=True)
    for number, (stage, found) in enumerate(zip(stages, runs, strict=True), start=1):
        take_over_timings(run, found, f"stage {number}, {stage.method}")
    rows = [
        {
            "preset": given.preset,
            "method": stage.method,
            "folder": found.path.name,
            "reused": was_there,
            "stopped_by": _outcome(found)["stopped_by"],
            **_teacher_of(stage, found),
        }
        for given, stage, found, was_there in zip(recipe.stages, stages, runs, reused, strict=True)
    ]
    facts = {"environment": environment_facts(), "stages": rows, "finished": True}
    judging = runs[-1].read_manifest().get("judging")
    run.update_manifest(facts if judging is None else {**facts, "judging": judging})


def _teacher_of(stage: Recipe, run: RunDirectory) -> dict[str, str]:
    """Which teacher a stage had, with one fingerprint of all its files: stages may have others."""
    if stage.teacher.model is None:
        return {}
    inputs = cast("dict[str, dict[str, str]]", run.read_manifest()[INPUTS])
    files = inputs.get("student.model" if stage.teacher.is_student else "teacher.model")
    content = {} if files is None else {"teacher_fingerprint": of_settings(files)}
    named = ", ".join(stage.teacher.other_models) or "student"
    return {"teacher": named, **content}


def _write_logs(run: RunDirectory, stages: Sequence[RunDirectory]) -> None:
    """Metrics and alarms of all stages, each row with its stage, the steps counted on."""
    metrics, alarms, done = list[str](), list[str](), 0
    for index, stage in enumerate(stages):
        warnings = stage.read_alarms()
        for lines, rows in ((metrics, stage.read_metrics()), (alarms, warnings)):
            for row in rows:
                step = cast("int", row["step"]) + done
                told = {**row, "step": step, "stage": index}
                if rows is warnings:  # whose text has the stage's own update
                    told["text"] = f"{stage.path.name}: {row['text']}"
                lines.append(json.dumps(told, ensure_ascii=False))
        done += _num_updates(stage)
    for path, lines in ((run.metrics_path, metrics), (run.alarms_path, alarms)):
        if lines or path == run.metrics_path:
            atomic.write_text(path, "".join(f"{line}\n" for line in lines))

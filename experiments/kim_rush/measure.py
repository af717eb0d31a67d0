"""One cell from nothing to its rows: trains its stages, measures the student beside the teacher.

Runs in a process of its own, with one thread, beside others.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from experiments.harness.apart import train_apart
from experiments.harness.contents import content_of
from experiments.harness.recipes import recipe_of
from experiments.kim_rush.cells import Cell, run_folder
from experiments.kim_rush.tasks import Task
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import model_folder
from seqdistill.core.progress import NoProgress
from seqdistill.evaluation.systems import SystemResult, evaluate_system
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.export import INT8_FOLDER, Form, export_model, weight_bytes
from seqdistill.jobs.systems import system_under_test
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.temporary import temporary_folder

_PLACES = ("output_dir", "training.threads", "teacher.model", "method")
_TEACHERS: dict[tuple[str, str], SystemResult] = {}
_ENGINE = "ctranslate2 float32"
# Of the student's row in results.json: names that the cell has already, in its own words.
_OWN_NAMES = ("name", "method", "init")


def digest(cell: Cell) -> str:
    """Twelve hex digits of what decides a cell's numbers: settings, data and teacher."""
    settings = {key: value for key, value in cell.settings.items() if key not in _PLACES}
    data = {
        key: content_of(str(value))
        for key, value in cell.task.settings.items()
        if key in ("data.train", "data.dev", "data.test")
    }
    facts = [settings, data, content_of(model_folder(cell.task.teacher)), cell.measured]
    return of_settings(facts)[:12]


def rows_of(cell: Cell) -> list[dict[str, object]]:
    """Trains and measures a cell. Its row comes first; the teacher's own row may follow."""
    recipe = recipe_of(cell.settings)
    _remove_other_run(recipe)
    run = train_apart(recipe)
    row = described(cell) | _of_training(cell, run)
    if not cell.measured:
        return [row]
    exports = cell.experiment == "pruning"
    teacher_result = _teacher_result(cell.task, recipe)
    results = evaluate_run(
        run,
        ["evaluation.include_start=false"],
        progress=NoProgress(),
        export=exports,
        measured_teacher=teacher_result,
    )
    systems = cast("list[dict[str, Any]]", results["systems"])
    teacher = next(system for system in systems if system["method"] == "teacher")
    student = next(system for system in systems if system["method"] != "teacher")
    row |= {key: value for key, value in student.items() if key not in _OWN_NAMES}
    row |= {f"teacher_{key}": teacher[key] for key in teacher if key.startswith("words_per_second")}
    rows = [row]
    if exports:
        row |= _bytes_of_forms(run)
        copy = cast("list[dict[str, Any]]", results["exports"])[0]
        rows.append(_of_copy(row, copy))
    if cell.size is None:
        rows.append(_teacher_row(cell, teacher))
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return rows


def _remove_other_run(recipe: Recipe) -> None:
    """Removes the run that a cell of that name made by other settings; its stages stay."""
    run = RunDirectory(Path(recipe.output_dir))
    if run.recipe_path.is_file() and load_recipe(str(run.recipe_path), []) != recipe:
        shutil.rmtree(run.path)


def run_directory(cell: Cell) -> RunDirectory:
    """Where the cell's student is, or will be."""
    return RunDirectory(run_folder(cell.task, cell.name))


def _teacher_result(task: Task, recipe: Recipe) -> SystemResult:
    """The teacher on the test set, decoded once by each process for all of its cells."""
    key = (task.name, task.teacher)
    if key not in _TEACHERS:
        examples = read_split(recipe, "test")
        folder = model_folder(task.teacher)
        system = system_under_test("teacher", folder, "trained", recipe, examples)
        _TEACHERS[key] = evaluate_system(
            system,
            [example.target or "" for example in examples],
            evaluation_settings(recipe, examples, system.model.kind),
            teacher=None,
        )
    return _TEACHERS[key]


def _bytes_of_forms(run: RunDirectory) -> dict[str, object]:
    forms: dict[str, Form] = {"fp16": "dense", "fp16_sparse": "sparse"}
    with temporary_folder() as folder:
        sizes = {
            name: export_model(
                str(run.path),
                folder / name,
                form=form,
                save_dtype="fp16",
                verify_on=None,
                threads=None,
            ).weight_bytes
            for name, form in forms.items()
        }
    sizes["int8"] = weight_bytes(run.path / INT8_FOLDER)
    return {f"bytes_{form}": size for form, size in sizes.items()}


def _of_copy(row: Mapping[str, object], copy: Mapping[str, object]) -> dict[str, object]:
    """The row of a student's int8 copy: what is said of the student's weights stays."""
    own = {key: value for key, value in copy.items() if key not in (*_OWN_NAMES, "system")}
    return {**row, **own, "engine": "ctranslate2 int8", "name": f"{row['name']}/int8"}


def described(cell: Cell) -> dict[str, object]:
    """The keys of a row that tell which cell it is of."""
    return {
        "task": cell.task.name,
        "experiment": cell.experiment,
        "size": "teacher" if cell.size is None else cell.size.name,
        "method": cell.method,
        "seed": cell.seed,
        "stages": [stage.preset for stage in cell.stages],
        "engine": _ENGINE,
        "learning_rate": cell.learning_rate,
        "learning_rates": [stage.settings["training.learning_rate"] for stage in cell.stages],
        "updates": sum(int(str(stage.settings["training.steps"])) for stage in cell.stages),
        **cell.facts,
        "name": cell.name,
        "digest": digest(cell),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _of_training(cell: Cell, run: RunDirectory) -> dict[str, object]:
    """Dev score of the student that was kept, seconds of training, facts of the interpolation."""
    manifest = run.read_manifest()
    stages = cast("list[dict[str, Any]]", manifest["stages"])
    runs = [RunDirectory(run.path / stage["folder"]) for stage in stages]
    manifests = [found.read_manifest() for found in runs]
    trained = [cast("dict[str, Any]", found["training"]) for found in manifests]
    kept = trained[-1]["best"][0][1]
    scores: Mapping[str, object] = next(
        row
        for row in runs[-1].read_metrics()
        if row["step"] == kept and f"dev_{cell.task.dev_score}" in row
    )
    facts: dict[str, object] = {
        key: value for key, value in scores.items() if key.startswith("dev_")
    }
    facts["kept_update"] = kept
    facts["seconds_training"] = round(sum(found["seconds"] for found in trained), 1)
    facts["tokens_training"] = sum(found["tokens"] for found in trained)
    if "interpolation" in manifests[-1]:
        facts["interpolation"] = manifests[-1]["interpolation"]
    return facts


def _teacher_row(cell: Cell, teacher: Mapping[str, object]) -> dict[str, object]:
    row = described(cell)
    row |= {"method": "teacher", "stages": [], "updates": None, "learning_rate": None}
    row |= {"learning_rates": [], "name": "main/teacher/teacher"}
    return row | {key: value for key, value in teacher.items() if key not in _OWN_NAMES}

"""How fast teacher and students decode, in fp32 and int8, one engine, in turns in one process.

Runs alone, with all threads, when the cells are done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness.recipes import recipe_of
from experiments.kim_rush.cells import Cell, plan
from experiments.kim_rush.measure import described, run_directory
from experiments.kim_rush.tasks import Task
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import model_folder
from seqdistill.evaluation.systems import SystemUnderTest, evaluate_translations
from seqdistill.jobs.evaluate import evaluation_settings, measure_speed
from seqdistill.jobs.systems import system_under_test
from seqdistill.recipe.schema import Recipe

# Of the rows that evaluation makes: what these rows say in their own words.
_OWN_NAMES = ("name", "method", "init", "bytes")
COMPUTE_TYPES = ("float32", "int8")
METHOD = "seq_kd+seq_inter"
"""The students whose speed is told: the paper's best."""


def speed_rows(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """A row for teacher and students in each arithmetic; none before the students are there.

    Quality is measured again, since int8 has its own.
    """
    cells = _students(task, rows)
    if not cells:
        return []
    found: list[tuple[dict[str, object], SystemUnderTest]] = []
    for compute_type in COMPUTE_TYPES:
        recipe = _recipe(task, cells[0], compute_type)
        examples = read_split(recipe, "test")
        teacher = _described(cells[0], "teacher", compute_type) | {"size": "teacher", "stages": []}
        folder = model_folder(task.teacher)
        found.append((teacher, system_under_test("teacher", folder, "trained", recipe, examples)))
        for cell in cells:
            folder = str(run_directory(cell).student_path)
            system = system_under_test(cell.method, folder, "scratch", recipe, examples)
            found.append((_described(cell, cell.method, compute_type), system))
    references = [example.target or "" for example in examples]
    settings = evaluation_settings(recipe, examples, found[0][1].model.kind)
    measured = []
    for row, system in found:
        named = dataclasses.replace(system, name=str(row["name"]))
        result = evaluate_translations(named, references, settings, teacher=None)
        measured.append((named, result))
    measure_speed(measured, settings)
    return [
        row | {key: value for key, value in result.row.items() if key not in _OWN_NAMES}
        for (row, _), (_, result) in zip(found, measured, strict=True)
    ]


def _students(task: Task, rows: Sequence[Mapping[str, Any]]) -> list[Cell]:
    measured = {row["name"] for row in rows if row["task"] == task.name}
    seed = task.seeds[0]
    return [
        cell
        for cell in plan(task, rows)
        if (cell.experiment, cell.method, cell.seed) == ("main", METHOD, seed)
        and cell.name in measured
    ]


def _recipe(task: Task, cell: Cell, compute_type: str) -> Recipe:
    settings = {key: value for key, value in cell.settings.items() if key != "training.threads"}
    return recipe_of({**settings, "evaluation.compute_type": compute_type})


def _described(cell: Cell, method: str, compute_type: str) -> dict[str, object]:
    row = described(cell)
    size = "teacher" if method == "teacher" else str(row["size"])
    name = f"speed/{size}/{method.replace('+', '-')}/{compute_type}"
    engine = f"ctranslate2 {compute_type}"
    return row | {"experiment": "speed", "method": method, "engine": engine, "name": name}

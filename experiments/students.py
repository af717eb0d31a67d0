"""Measures the students of a sweep and their teacher in one process: quality, speed and bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from experiments.timing import columns, timed
from seqdistill.assembly.models import model_folder
from seqdistill.core.generators import derived_seed
from seqdistill.evaluation.systems import SystemResult
from seqdistill.generation.conversion import WEIGHTS
from seqdistill.jobs.cells import Cell
from seqdistill.jobs.export import export_model, weight_bytes
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.recipe.sweep_schema import Sweep
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row
from seqdistill.records.temporary import temporary_folder


def measured(sweep: Sweep, cells: Mapping[str, Cell], task: str) -> list[Row]:
    """A row for each student that is trained, and the teacher, in fp32 and int8.

    Scores of the sweep's first metric are also told as differences to the teacher's beam search in
    fp32. A row of int8 has the bytes without zeros, too, as `bytes_sparse`.
    """
    main = str(sweep.settings.get("evaluation.metrics", ["bleu"])[0])
    trained = {c.facts["method"]: c for c in cells.values() if c.run.is_finished}
    teacher = str(sweep.settings["teacher.model"])
    models = {"teacher": teacher, **{m: str(c.run.student_path) for m, c in trained.items()}}
    found = timed(models, sweep.settings, teacher)
    test = str(sweep.settings["data.test"])
    sizes = {name: _bytes(Path(model_folder(folder)), test) for name, folder in models.items()}
    base = found["teacher", "float32"]
    rows: list[Row] = []
    for (method, compute_type), result in found.items():
        row: Row = {"task": task, "experiment": task, "name": f"{method}/{compute_type}"}
        row |= {"method": method, "seed": 1, "compute_type": compute_type}
        row |= columns(result) | sizes[method][compute_type]
        for mode in ("greedy", "beam"):
            row |= _over_beam(result, mode, base, main)
        if (cell := trained.get(method)) is not None:
            manifests = [RunDirectory(r.output_dir).read_manifest() for r in cell.recipes]
            training = [cast("dict[str, Any]", found["training"]) for found in manifests]
            row |= {key: sum(found[key] for found in training) for key in ("seconds", "tokens")}
        rows.append(row)
    return rows


def stored_sizes(student: Path, int8: Path) -> dict[str, int]:
    """Bytes of the weights by form: fp16, fp16_sparse, int8, int8_sparse.

    The last is no file: a bit for each weight of the int8 copy, a byte for each that is not 0.
    """
    with temporary_folder() as folder:
        forms: tuple[Literal["dense", "sparse"], ...] = ("dense", "sparse")
        for form in forms:
            export_model(
                str(student),
                folder / form,
                form=form,
                save_dtype="fp16",
                verify_on=None,
                threads=1,
            )
        fp16, fp16_sparse = (weight_bytes(folder / form) for form in forms)
    return {"fp16": fp16, "fp16_sparse": fp16_sparse, **_int8_sizes(int8)}


def _int8_sizes(int8: Path) -> dict[str, int]:
    weights = np.frombuffer((int8 / WEIGHTS).read_bytes(), np.int8)
    sparse = weights.size // 8 + int(np.count_nonzero(weights))
    return {"int8": weights.size, "int8_sparse": sparse}


def _bytes(folder: Path, test: str) -> dict[str, Row]:
    with temporary_folder() as scratch:
        into = scratch / "int8"
        export_model(str(folder), into, form="int8", save_dtype=None, verify_on=test, threads=1)
        sizes = _int8_sizes(into)
    int8 = {"bytes": sizes["int8"], "bytes_sparse": sizes["int8_sparse"]}
    return {"float32": {"bytes": weight_bytes(folder)}, "int8": int8}


def _over_beam(result: SystemResult, mode: str, teacher: SystemResult, main: str) -> Row:
    """By how much it lies above the teacher's beam search in fp32, and the ends of that."""
    own = getattr(result, mode).statistics[main]
    base = teacher.beam.statistics[main]
    generator = np.random.default_rng(derived_seed(1, "paired rows"))
    found = paired_bootstrap(own, base, num_resamples=1000, confidence=0.95, generator=generator)
    key = f"{main}_{mode}_over_teacher"
    value = own.score().value - base.score().value
    return {key: value, f"{key}_low": found.low, f"{key}_high": found.high}

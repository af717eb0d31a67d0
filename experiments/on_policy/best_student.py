"""Makes the best student, or goes on with it: `python -m experiments.on_policy.best_student`.

Writes the text that the teacher labels, runs the sweep of best_student.yaml, measures every step of
it and the teacher in one process, and writes rows and page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from corpora.en_de.unlabelled import write

from experiments.on_policy.page import BEST, RESULTS, write_page
from experiments.pages import exits
from experiments.preparing import split_sizes
from experiments.running import add_rows, exit_if_failed
from experiments.timing import columns, timed
from seqdistill.assembly.models import model_folder
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.generators import derived_seed
from seqdistill.evaluation.systems import SystemResult
from seqdistill.jobs.cells import Cell
from seqdistill.jobs.export import export_model, weight_bytes
from seqdistill.jobs.sweep import planned_cells, run_sweep
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.recipe.sweep_schema import read_sweep
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row
from seqdistill.records.temporary import temporary_folder

SWEEP = read_sweep(Path(__file__).with_name("best_student.yaml"))
MAIN = "bleu"


def measured(cells: Mapping[str, Cell]) -> list[Row]:
    """A row for each student that is trained, and the teacher, in fp32 and int8."""
    trained = {c.facts["method"]: c for c in cells.values() if c.run.is_finished}
    teacher = str(SWEEP.settings["teacher.model"])
    models = {"teacher": teacher, **{m: str(c.run.student_path) for m, c in trained.items()}}
    found = timed(models, SWEEP.settings, teacher)
    sizes = {name: _bytes(folder) for name, folder in models.items()}
    base = found["teacher", "float32"]
    rows: list[Row] = []
    for (method, compute_type), result in found.items():
        row: Row = {"task": BEST, "experiment": BEST, "name": f"{method}/{compute_type}"}
        row |= {"method": method, "seed": 1, "compute_type": compute_type}
        row |= columns(result) | {"bytes": sizes[method][compute_type]}
        for mode in ("greedy", "beam"):
            row |= _over_beam(result, mode, base)
        if (cell := trained.get(method)) is not None:
            manifests = [RunDirectory(r.output_dir).read_manifest() for r in cell.recipes]
            training = [cast("dict[str, Any]", found["training"]) for found in manifests]
            row |= {key: sum(found[key] for found in training) for key in ("seconds", "tokens")}
        rows.append(row)
    return rows


def _bytes(model: str) -> dict[str, int]:
    folder = Path(model_folder(model))
    with temporary_folder() as scratch:
        export_model(
            str(folder),
            scratch / "int8",
            form="int8",
            save_dtype=None,
            verify_on=str(SWEEP.settings["data.test"]),
            threads=1,
        )
        int8 = weight_bytes(scratch / "int8")
    return {"float32": weight_bytes(folder), "int8": int8}


def _over_beam(result: SystemResult, mode: str, teacher: SystemResult) -> Row:
    """By how much it is better than the teacher's beam search in fp32, and the ends of that."""
    own = getattr(result, mode).statistics[MAIN]
    base = teacher.beam.statistics[MAIN]
    generator = np.random.default_rng(derived_seed(1, "paired rows"))
    found = paired_bootstrap(own, base, num_resamples=1000, confidence=0.95, generator=generator)
    key = f"{MAIN}_{mode}_over_teacher"
    value = own.score().value - base.score().value
    return {key: value, f"{key}_low": found.low, f"{key}_high": found.high}


def main() -> None:
    """The command line. Exits with a sentence when cells failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="cells at once")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no cell later")
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    keep_freed_memory()
    if not (text := Path(SWEEP.output_dir) / "unlabelled.txt").is_file():
        print(write(text))
    done = run_sweep(SWEEP, jobs=options.jobs, until=until, tell=print)
    data = {key: value for key, value in SWEEP.settings.items() if key.startswith("data.")}
    sizes = split_sizes(data, str(SWEEP.settings["teacher.model"]))
    add_rows(RESULTS, measured(planned_cells(SWEEP)), {BEST: sizes})
    write_page(RESULTS)
    exit_if_failed(done.failed)


if __name__ == "__main__":
    exits(main)

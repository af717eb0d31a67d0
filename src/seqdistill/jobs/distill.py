"""The whole job in one call: train, measure, choose, export, report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.assembly.models import trusts_code
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.errors import RecipeError
from seqdistill.core.progress import NoProgress, Progress
from seqdistill.data.bundled import SCHEME
from seqdistill.jobs.evaluate import evaluate_run
from seqdistill.jobs.logs import timed
from seqdistill.jobs.train import train
from seqdistill.models.loading import load_pair
from seqdistill.recipe.loading import load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.records import atomic
from seqdistill.records.results import Results
from seqdistill.records.run_directory import Resume, RunDirectory
from seqdistill.report import write_report

Data = str | Path | Mapping[str, str | Path]


@dataclasses.dataclass(frozen=True)
class Distilled:
    """A finished run: the student, its numbers, and the folder that holds everything."""

    student: PreTrainedModel
    """The trained student, in eval mode."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""
    results: Results
    """What results.json holds: `systems`, `paired_tests`, `exports`."""
    run_directory: Path
    """Recipe, metrics, checkpoints, student, results and report."""


def distill(
    *,
    teacher: str | Path,
    student: str | Path | None = None,
    data: Data,
    method: str = "seq_kd",
    output_dir: str | Path,
    overrides: Mapping[str, object] | None = None,
    resume: Resume = False,
    progress: Progress | None = None,
) -> Distilled:
    """Trains a student of `teacher` by `method`, measures both, and writes the report.

    `teacher` and `student` are transformers folders or hub names; without a student, layers of the
    teacher are copied (set `student.encoder_layers` and `student.decoder_layers` in `overrides`).
    `data` is a mapping with `train`, `test` and, where there are such, `dev` and `unlabelled`, or
    `bundled:en-de`. `method` is
    a preset: see `seqdistill recipe list`. `overrides` sets any key of the recipe, such as
    {"training.steps": 2000, "training.learning_rate": 3e-4}. The same as `seqdistill train`,
    `evaluate` and `report` in turn.

    Raises UserError, before anything is written, for whatever cannot work.
    """
    keep_freed_memory()
    settings: dict[str, object] = {"teacher.model": str(teacher), "output_dir": str(output_dir)}
    if student is None:
        settings["student.init"] = "teacher_layers"
    else:
        settings["student.model"] = str(student)
    settings |= {f"data.{split}": str(spec) for split, spec in _splits(data).items()}
    settings |= dict(overrides or {})
    recipe = load_recipe(
        method,
        [f"{key}={json.dumps(value)}" for key, value in settings.items()],
        purpose="measure",
    )
    run: RunDirectory = run_recipe(recipe, progress=progress or NoProgress(), resume=resume)
    pair = load_pair(str(run.student_path), trust_remote_code=trusts_code(recipe))
    return Distilled(pair.model, pair.tokenizer, run.read_results(), run.path)


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


def _splits(data: Data) -> Mapping[str, str | Path]:
    if isinstance(data, str | Path):
        if not str(data).startswith(SCHEME):
            raise RecipeError(
                "data must be a mapping with train and test (and dev), such as "
                f"{{'train': 'a.tsv', 'test': 'b.tsv'}}, or bundled:en-de, got {str(data)!r}."
            )
        return dict.fromkeys(("train", "dev", "test"), data)
    unknown = sorted(set(data) - {"train", "dev", "test", "unlabelled"})
    if unknown or "train" not in data or "test" not in data:
        raise RecipeError(
            f"data must have the keys train and test, and may have dev and unlabelled, got "
            f"{sorted(data)}."
        )
    return data

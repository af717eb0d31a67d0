"""One cell from nothing to its row: trains its student, measures it on the test sets.

Runs in a process of its own, with one thread, beside others.
"""

from __future__ import annotations

import datetime
import itertools
import shutil
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, cast

from experiments.gkd.cells import INITIAL, STARTS, Cell, run_folder
from experiments.gkd.tasks import Task
from experiments.harness.apart import train_apart
from experiments.harness.contents import content_of
from experiments.harness.recipes import recipe_of
from seqdistill.assembly.data import encode_for_evaluation, read_split
from seqdistill.assembly.models import model_folder
from seqdistill.evaluation.analyses import token_agreement_columns
from seqdistill.evaluation.dev import best_texts
from seqdistill.evaluation.settings import EvaluationSettings, interval_columns
from seqdistill.evaluation.systems import SystemResult, SystemUnderTest, evaluate_system
from seqdistill.generation.calculator import greedy_with_calculator
from seqdistill.jobs.evaluate import evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe
from seqdistill.records.environment import machine
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.run_directory import RunDirectory

_PLACES = ("training.threads", "teacher.model", "method", "sequences.corpus")
"""Settings that decide no number."""
_OF_EVALUATION = "evaluation."
_NUM_DIGITS = 12
# Of a system's row: names that the cell has already, in its own words.
_OWN_NAMES = ("name", "method", "init")
_TEACHERS: dict[str, SystemResult] = {}


def training_digest(cell: Cell) -> str:
    """Twelve hex digits of what decides a cell's student: settings, data, teacher, first weights.

    How it is evaluated is not among them, but for what chooses checkpoints.
    """
    settings = {
        key: value
        for key, value in cell.settings.items()
        if key not in _PLACES and not key.startswith(_OF_EVALUATION)
    }
    facts = [settings, _contents(cell.task, ("train", "dev")), _teacher(cell), cell.start]
    return of_settings(facts)[:_NUM_DIGITS]


def digest(cell: Cell) -> str:
    """Twelve hex digits of what decides a cell's numbers: its student, and how it is measured."""
    evaluation = {k: v for k, v in cell.settings.items() if k.startswith(_OF_EVALUATION)}
    tests = [_contents(cell.task, ("test",)), dict(cell.task.further_tests), cell.task.calculator]
    facts = [training_digest(cell), cell.measured, evaluation, tests if cell.measured else []]
    return of_settings(facts)[:_NUM_DIGITS]


def _contents(task: Task, splits: Sequence[str]) -> dict[str, str]:
    return {split: content_of(str(task.settings[f"data.{split}"])) for split in splits}


def _teacher(cell: Cell) -> str | None:
    """What the student learns from or is made of; supervised students learn from nobody."""
    made_of_it = cell.settings.get("student.init") == "teacher_layers"
    if cell.method.preset == "baseline" and not made_of_it:
        return None
    return content_of(model_folder(cell.task.teacher))


def run_directory(cell: Cell) -> RunDirectory:
    """Where the cell's student is, or will be."""
    return RunDirectory(run_folder(cell.task, cell.method.name, cell.seed, training_digest(cell)))


def rows_of(cell: Cell) -> list[dict[str, object]]:
    """Trains and measures a cell: one row."""
    run, row = run_directory(cell), described(cell)
    if cell.experiment == "teacher":
        result = _teacher_result(cell.task)
        system = _system(cell.task, model_folder(cell.task.teacher))
        _write_outputs(run, cell.task, result)
        return [row | _measured(cell.task, system, result)]
    if not _is_finished(run):
        recipe = recipe_of(_with_places(cell), preset=cell.method.preset)
        train_apart(recipe)
    row |= _of_training(cell, run)
    if not cell.measured:
        return [row]
    system = _system(cell.task, str(run.student_path))
    settings = _settings(cell.task, system)
    result = evaluate_system(system, _references(cell.task), settings, teacher=None)
    # Token by token only: a teacher's output may hold nothing that could be a reference.
    predicted = [found.predictions for found in (result, _teacher_result(cell.task))]
    if predicted[0] is not None and predicted[1] is not None:
        row |= token_agreement_columns(predicted[0], predicted[1], settings)
    _write_outputs(run, cell.task, result)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return [row | _measured(cell.task, system, result)]


def _with_places(cell: Cell) -> dict[str, object]:
    """The cell's settings, and where its student is written and starts from."""
    begins = {}
    if cell.start is not None:
        begun = RunDirectory(run_folder(cell.task, INITIAL.name, cell.seed, cell.start))
        begins["student.model"] = str(begun.student_path)
    if cell.settings.get("training.precision") == "bf16":
        # Where the machine has no bf16 it would take days; the row says which it was.
        begins["training.precision"] = "auto"
    return {**cell.settings, **begins, "output_dir": str(run_directory(cell).path)}


def outputs_of(row: Mapping[str, Any], task: Task) -> tuple[list[str], list[str]] | None:
    """What a row's student wrote greedily, and the references; None where it is not kept."""
    folder = run_folder(task, row["method"], row["seed"], row["training"])
    outputs = RunDirectory(folder).read_outputs()
    if not outputs:
        return None
    return [str(o["greedy"]) for o in outputs], [str(o["reference"]) for o in outputs]


def start_is_gone(row: Mapping[str, Any], task: Task) -> bool:
    """Whether the row is of a supervised student whose weights are no longer there."""
    if row["experiment"] not in STARTS or row["task"] != task.name:
        return False
    folder = run_folder(task, row["method"], row["seed"], row["training"])
    return not RunDirectory(folder).student_path.is_dir()


def _is_finished(run: RunDirectory) -> bool:
    if not (run.manifest_path.is_file() and run.student_path.is_dir()):
        return False
    return run.read_manifest().get("finished") is True


def described(cell: Cell) -> dict[str, object]:
    """The keys of a row that tell which cell it is of."""
    method = cell.method
    return {
        "task": cell.task.name,
        "experiment": cell.experiment,
        "preset": method.preset,
        "method": method.name,
        "divergence": method.divergence,
        "lambda": method.student_fraction,
        "alpha": cell.teacher_weight,
        "data_share": cell.data_share,
        "seed": cell.seed,
        "updates": cell.updates,
        "learning_rate": cell.learning_rate,
        "start": cell.start,
        "training": training_digest(cell),
        "name": cell.name,
        "digest": digest(cell),
        "machine": str(machine()["cpu_model"]),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _of_training(cell: Cell, run: RunDirectory) -> dict[str, object]:
    """Dev scores of the student that was kept, seconds of training, what it last wrote."""
    manifest = run.read_manifest()
    trained = cast("dict[str, Any]", manifest["training"])
    kept, key = trained["best"][0][1], f"dev_{cell.task.dev_score}"
    metrics = run.read_metrics()
    scores = next(row for row in metrics if row["step"] == kept and key in row)
    facts: dict[str, object] = {k: v for k, v in scores.items() if k.startswith("dev_")}
    facts["kept_update"] = kept
    facts["precision"] = manifest["precision"]
    facts["wall_s"] = round(trained["seconds"], 1)
    facts["seconds_per_update"] = trained["seconds"] / trained["updates"]
    facts["typical_seconds_per_update"] = _typical_seconds(metrics)
    facts["tokens_training"] = trained["tokens"]
    for name in ("completion_length", "student_entropy", "teacher_reverse_kl", "reward"):
        logged = [row[name] for row in metrics if isinstance(row.get(name), float)]
        if logged:
            facts[f"last_{name}"] = logged[-1]
    return facts


def _typical_seconds(metrics: Sequence[Mapping[str, Any]]) -> float:
    """The median of the seconds of an update: what else the machine did meanwhile hardly counts."""
    logged = [(int(row["step"]), float(row["seconds"])) for row in metrics if "seconds" in row]
    pairs = itertools.pairwise([(0, 0.0), *logged])
    return median((after[1] - before[1]) / (after[0] - before[0]) for before, after in pairs)


def _evaluation_recipe(task: Task, *, test: str | None = None) -> Recipe:
    """How every system of the task is measured: with one seed, so on the same resamples."""
    settings = {k: v for k, v in task.settings.items() if k.startswith(("data.", _OF_EVALUATION))}
    if test is not None:
        settings["data.test"] = test
    folders = {"teacher.model": task.teacher, "student.model": task.teacher}
    return recipe_of({**settings, **folders, "training.threads": 1, "seed": task.seeds[0]})


def _teacher_result(task: Task) -> SystemResult:
    """The teacher on the test set, decoded once by each process for all of its cells."""
    if task.name not in _TEACHERS:
        system = _system(task, model_folder(task.teacher))
        settings = _settings(task, system)
        _TEACHERS[task.name] = evaluate_system(system, _references(task), settings, teacher=None)
    return _TEACHERS[task.name]


def _system(task: Task, folder: str, *, test: str | None = None) -> SystemUnderTest:
    recipe = _evaluation_recipe(task, test=test)
    return system_under_test("student", folder, "pretrained", recipe, read_split(recipe, "test"))


def _settings(task: Task, system: SystemUnderTest) -> EvaluationSettings:
    recipe = _evaluation_recipe(task)
    return evaluation_settings(recipe, read_split(recipe, "test"), system.model.kind)


def _references(task: Task, *, test: str | None = None) -> list[str]:
    examples = read_split(_evaluation_recipe(task, test=test), "test")
    return [example.target or "" for example in examples]


def _measured(task: Task, system: SystemUnderTest, result: SystemResult) -> dict[str, object]:
    """Every column of the test sets; `value` is the task's metric by greedy decoding."""
    row = {key: value for key, value in result.row.items() if key not in _OWN_NAMES}
    settings = _settings(task, system)
    if task.calculator:
        row |= _calculated(system, _references(task), settings)
    for name, test in task.further_tests.items():
        row |= _on_further_test(name, test, task, system, settings)
    greedy = f"{task.metric}_greedy"
    ends = {end: row[f"{greedy}_{end}"] for end in ("low", "high")}
    return {**row, "metric": greedy, "value": row[greedy], **ends}


def _on_further_test(
    name: str, test: str, task: Task, system: SystemUnderTest, settings: EvaluationSettings
) -> dict[str, object]:
    """The task's metric by greedy decoding of another test set."""
    recipe = _evaluation_recipe(task, test=test)
    pair = LoadedModel(system.model.module, system.tokenizer, system.name)
    encoded = encode_for_evaluation(read_split(recipe, "test"), pair, recipe.data)
    texts = best_texts(system.generator, encoded.examples, system.tokenizer, settings.greedy)
    references = _references(task, test=test)
    statistics = CORPUS_METRICS[task.metric].statistics(texts, references)
    return interval_columns(f"{task.metric}_{name}", statistics, settings)


def _calculated(
    system: SystemUnderTest, references: Sequence[str], settings: EvaluationSettings
) -> dict[str, object]:
    """The main metric of outputs in which the calculator put every marked step right."""
    outputs = greedy_with_calculator(
        system.generator,
        [example.prompt_ids for example in system.examples],
        settings.greedy,
        tokenizer=system.tokenizer,
    )
    metric = settings.main_metric.name
    texts = [output.text.strip() for output in outputs]
    statistics = CORPUS_METRICS[metric].statistics(texts, references)
    return interval_columns(f"{metric}_calculator", statistics, settings)


def _write_outputs(run: RunDirectory, task: Task, result: SystemResult) -> None:
    """Keeps what was written for every test input, for intervals of differences."""
    run.path.mkdir(parents=True, exist_ok=True)
    pairs = zip(result.greedy.texts, _references(task), strict=True)
    run.write_outputs([{"reference": reference, "greedy": text} for text, reference in pairs])

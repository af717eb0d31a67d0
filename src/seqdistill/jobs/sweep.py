"""A sweep: every method x settings x seed trained and measured, and one table of what was found.

First each method chooses on dev, then the chosen students are measured on the test set, then the
page is written. Goes on where it stopped: a cell whose recipe has rows is not run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import seqdistill
from seqdistill.assembly.data import read_split
from seqdistill.assembly.models import trusts_code
from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import derived_seed
from seqdistill.core.progress import NoProgress
from seqdistill.evaluation.systems import SystemResult, evaluate_system
from seqdistill.jobs.cells import Cell, chained, run_cells, train_cell
from seqdistill.jobs.evaluate import evaluate_run, evaluation_settings
from seqdistill.jobs.systems import system_under_test
from seqdistill.metrics.bootstrap import paired_bootstrap
from seqdistill.metrics.corpus_metrics import LOSS, corpus_metrics, score_key_of
from seqdistill.metrics.repetitions import mean, t_interval
from seqdistill.metrics.score import SummedStatistics
from seqdistill.metrics.scripts import Units
from seqdistill.recipe.loading import Purpose, load_recipe
from seqdistill.recipe.schema import Recipe
from seqdistill.recipe.stages import unchained
from seqdistill.recipe.sweep_schema import START, Sweep, Trial, trials
from seqdistill.records import atomic
from seqdistill.records.fingerprint import of_settings
from seqdistill.records.locks import held
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.tables import Row, read_rows, write_rows
from seqdistill.report.sweep_page import sweep_page

ROWS, DIFFERENCES, PAGE = "rows.parquet", "differences.parquet", "sweep.html"
_NOT_A_SCORE = ("_low", "_high", "_sentences")
_CONFIDENCE, _NUM_RESAMPLES = 0.95, 1000
Values = dict[str, dict[str, float]]
"""What the test set said of students, by cell and metric."""
_TEACHERS: dict[str, SystemResult] = {}


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """Where a sweep's rows and page are, and what failed: the error by the name of the cell."""

    rows: Path
    page: Path
    failed: Mapping[str, str]


def planned_cells(sweep: Sweep) -> dict[str, Cell]:
    """Every student that the sweep may train, by its name.

    Raises RecipeError with what is wrong with any of them; writes nothing.
    """
    cells: dict[str, Cell] = {}
    problems: dict[str, str] = {}
    judges: dict[str, tuple[str, str]] = {}
    for trial in trials(sweep):
        try:
            cells[trial.name] = _cell(sweep, trial)
        except RecipeError as error:
            problems.setdefault(str(error), trial.name)
            continue
        recipe = cells[trial.name].recipes[-1]
        judged = f"{recipe.evaluation.metrics[0]} on {recipe.data.test}"
        first_name, first = judges.setdefault(str(trial.varied), (trial.name, judged))
        if judged != first:
            sentence = (
                "evaluation.metrics must begin with one metric and data.test be one file where "
                f"methods are compared, got {judged} and {first} of {first_name}; "
                "set both in the sweep's settings"
            )
            problems.setdefault(sentence, trial.name)
    if problems:
        raise RecipeError("; ".join(f"{name}: {error}" for error, name in problems.items()))
    return cells


def run_sweep(
    sweep: Sweep,
    *,
    jobs: int = 1,
    until: float = float("inf"),
    tell: Callable[[str], None] = lambda _line: None,
) -> SweepResult:
    """Runs what is missing, in `jobs` processes, and writes rows and page.

    After `until` (monotonic seconds) no cell begins. Raises RecipeError, before anything
    runs, for a cell that no recipe allows, and UserError while another process runs this sweep.
    """
    cells = planned_cells(sweep)
    folder = Path(sweep.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path, page = folder / ROWS, folder / PAGE
    place = {cell.key: number for number, cell in enumerate(cells.values())}
    with held(folder, "sweeping"):
        failed = run_cells(
            lambda: list(pending_cells(sweep, cells)),
            measured_rows,
            keeper(path, place),
            jobs=jobs,
            until=until,
            tell=tell,
        )
        rows = [row for row in read_rows(path) if row["cell"] in place]
        compared = differences(sweep, cells, rows)
        write_rows(folder / DIFFERENCES, compared)
        atomic.write_text(page, sweep_page(rows, compared, sweep))
    return SweepResult(path, page, failed)


def _cell(sweep: Sweep, trial: Trial) -> Cell:
    folder = Path(sweep.output_dir) / "cells"
    stages: list[Recipe] = []
    for index, stage in enumerate(trial.stages):
        overrides = [*trial.overrides(index), f"output_dir={folder}"]
        purpose: Purpose = "continue" if index else "measure"
        stages += unchained(load_recipe(stage.recipe, overrides, purpose=purpose))
    recipes, digest = chained(stages, folder)
    facts = {"method": trial.method, **trial.varied, **trial.chosen, "seed": trial.seed}
    return Cell(f"{trial.method}-{digest}", trial.name, recipes, facts)


def keeper(path: Path, place: Mapping[str, int]) -> Callable[[Cell, list[Row]], None]:
    """Puts the rows of a cell into the file, in the place of those that it has there; rows are in
    the order of `place`, dev first."""

    def keep(cell: Cell, new: list[Row]) -> None:
        rows = [row for row in read_rows(path) if _identity(row) != (cell.key, cell.tested)]
        rows += [{**row, "split": "test" if cell.tested else "dev"} for row in new]
        write_rows(path, sorted(rows, key=lambda r: (r["split"], place.get(r["cell"], -1))))

    return keep


def _identity(row: Row) -> tuple[str, bool]:
    return row["cell"], row["split"] == "test"


def pending_cells(sweep: Sweep, cells: Mapping[str, Cell]) -> Iterator[Cell]:
    """What has no row yet: starts, what chooses, then, once a method has chosen, its students."""
    rows = read_rows(Path(sweep.output_dir) / ROWS)
    there = {_identity(row) for row in rows if "error" not in row}
    tried = {_identity(row) for row in rows}
    scores = {row["cell"]: row["worth"] for row in rows if "worth" in row}
    groups: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for trial in trials(sweep):
        candidates = groups.setdefault((trial.method, str(trial.varied)), {})
        candidates.setdefault(str(trial.chosen), []).append(cells[trial.name])
    chosen: list[Cell] = []
    for (method, _), candidates in groups.items():
        options = list(candidates.values())
        if method == START:
            yield from (cell for cell in options[0] if (cell.key, True) not in there)
            continue
        if len(options) > 1:
            pilots = [dataclasses.replace(found[0], tested=False) for found in options]
            for pilot in pilots:
                if (pilot.key, False) not in there:
                    yield dataclasses.replace(pilot, name=f"{pilot.name} (dev)")
            if any((pilot.key, False) not in tried for pilot in pilots):
                continue
            options = [found for found in options if found[0].key in scores]
        if options:
            best: list[Cell] = max(options, key=lambda of: scores.get(of[0].key, 0.0))
            chosen += best
    yield from (cell for cell in chosen if (cell.key, True) not in there)


def measured_rows(cell: Cell, *, with_start: bool = False) -> list[Row]:
    """Trains a cell and measures it: one row a system and metric, or one of its score on dev.

    `with_start` also measures its student before the first update, unless its recipe does not.
    """
    run = train_cell(cell)[-1]
    manifest = run.read_manifest()
    training = cast("dict[str, Any]", manifest["training"])
    facts = {
        "cell": cell.key,
        **cell.facts,
        "steps": training["updates"],
        "seconds": training["seconds"],
        "version": seqdistill.__version__,
    }
    if not cell.tested:
        return [{**facts, **dev_score(run, float(training["best"][0][0]))}]
    recipe = cell.recipes[-1]
    evaluate_run(
        run,
        [] if with_start else ["evaluation.include_start=false"],
        progress=NoProgress(),
        measured_teacher=measured_teacher(recipe) if recipe.teacher.other_model else None,
        trust_remote_code=trusts_code(recipe),
    )
    return [
        {**facts, "parameters": system["parameters"], "system": role, **score}
        for role, system in systems_of_results(run).items()
        for score in _scores(system)
    ]


def dev_metric(run: RunDirectory) -> str:
    """The score on dev that chooses, as it is called in the run's metrics."""
    metric = str(cast("dict[str, Any]", run.read_manifest()["judging"])["eval_metric"])
    return LOSS if metric == "loss" else metric


def dev_score(run: RunDirectory, score: float) -> Row:
    """The columns of a score on dev; of two `worth` the larger is better."""
    metric = dev_metric(run)
    worth = score_key_of(metric)(score)
    return {"system": "student", "metric": metric, "value": score, "worth": worth}


def systems_of_results(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """What results.json says of the run's teacher and start, where there are such, and of its
    student."""
    systems = [system.columns() for system in run.read_results().systems]
    return {s["method"] if s["method"] in ("teacher", START) else "student": s for s in systems}


def measured_teacher(recipe: Recipe) -> SystemResult:
    """The recipe's teacher on its test set, decoded once by each process for all its cells."""
    sections = (recipe.teacher, recipe.data, recipe.evaluation, recipe.seed)
    key = of_settings(
        [part if isinstance(part, int) else part.model_dump(mode="json") for part in sections]
    )
    if key not in _TEACHERS:
        examples = read_split(recipe, "test")
        system = system_under_test(
            "teacher",
            str(recipe.teacher.model),
            "trained",
            recipe,
            examples,
            trust_remote_code=trusts_code(recipe),
        )
        _TEACHERS[key] = evaluate_system(
            system,
            [example.target or "" for example in examples],
            evaluation_settings(recipe, examples, system.model.kind),
            teacher=None,
        )
    return _TEACHERS[key]


def _scores(system: Mapping[str, Any]) -> Iterator[Row]:
    """Every number of a system with the ends of its interval, where it has one."""
    for key, value in system.items():
        if isinstance(value, float) and not key.endswith(_NOT_A_SCORE):
            ends = {end: system.get(f"{key}_{end}") for end in ("low", "high")}
            yield {"metric": key, "value": value, **ends}


def differences(sweep: Sweep, cells: Mapping[str, Cell], rows: Sequence[Row]) -> list[Row]:
    """By how much each method is better than the baseline and than its start, seed by seed and over
    seeds.

    Of one seed the interval is a paired bootstrap's over the test set, of what is not sampled; over
    several, Student's t of the seeds' differences. Read from what the runs wrote for the test set;
    cells whose runs have been removed are left out.
    """
    values: Values = {}
    for row in rows:
        if row.get("split") == "test" and row.get("system") == "student":
            values.setdefault(row["cell"], {})[row["metric"]] = row["value"]
    found = {c.key: c for c in cells.values() if c.key in values and c.run.outputs_path.is_file()}
    systems: dict[tuple[str, str], dict[int, Cell]] = {}
    for cell in found.values():
        varied = {key: cell.facts[key] for key in cell.facts if key not in sweep.choose}
        varied_key = str({k: v for k, v in varied.items() if k not in ("method", "seed")})
        systems.setdefault((cell.facts["method"], varied_key), {})[cell.facts["seed"]] = cell
    compared: list[Row] = []
    for (method, varied_key), own in systems.items():
        for name in sweep.bases:
            base = systems.get((name, varied_key), {})
            if method not in (name, START):
                shared = [(own[seed], base[seed]) for seed in own if seed in base]
                compared += ({**row, "baseline": name} for row in _of_seeds(shared, values))
    return compared


def _of_seeds(pairs: Sequence[tuple[Cell, Cell]], values: Values) -> Iterator[Row]:
    by_metric: dict[str, list[Row]] = {}
    for own, base in pairs:
        sampled = _of_samples(own, base, values) if len(pairs) > 1 else ()
        for row in (*paired_gains(own.run, base.run), *sampled):
            by_metric.setdefault(row["metric"], []).append({**own.facts, **row, "num_seeds": 1})
    for rows in by_metric.values():
        yield from rows
        gains = [row["gain"] for row in rows]
        if len(gains) > 1:
            low, high = t_interval(gains, confidence=_CONFIDENCE)
            whole = {key: value for key, value in rows[0].items() if key != "seed"}
            ends = {"gain": mean(gains), "low": low, "high": high}
            yield {**whole, **ends, "interval": "t over seeds", "num_seeds": len(gains)}


def paired_gains(own: RunDirectory, base: RunDirectory, system: str | None = None) -> Iterator[Row]:
    """By how much the student of a run is better than that of another, or than a system measured
    there, with the ends of a paired bootstrap over the test set: greedy and by beam search."""
    for mode in ("greedy", "beam"):
        metric, sign, mine = scored(own, mode)
        _, _, theirs = scored(base, mode, system)
        generator = np.random.default_rng(derived_seed(1, "paired sweep"))
        found = paired_bootstrap(
            mine, theirs, num_resamples=_NUM_RESAMPLES, confidence=_CONFIDENCE, generator=generator
        )
        low, high = sorted((sign * found.low, sign * found.high))
        gain = sign * (mine.score().value - theirs.score().value)
        ends = {"gain": gain, "low": low, "high": high}
        name = f"{metric}_{mode}"
        yield {"metric": name, **ends, "interval": "bootstrap of the test set"}


def _of_samples(own: Cell, base: Cell, values: Values) -> Iterator[Row]:
    main = own.run.read_results().metrics[0]
    for metric, mine in values[own.key].items():
        theirs = values[base.key].get(metric)
        if metric.startswith(f"{main.name}_sample_t") and theirs is not None:
            gain = main.score_key(mine) - main.score_key(theirs)
            yield {"metric": metric, "gain": gain, "low": None, "high": None, "interval": "none"}


def scored(
    run: RunDirectory, mode: str, system: str | None = None
) -> tuple[str, int, SummedStatistics]:
    """The run's main metric, +1 where more is better and -1 where less is, and the statistics of
    the test set of a system, or of the student, decoded `greedy` or by `beam`."""
    results = run.read_results()
    main = results.metrics[0]
    units = Units(**cast("dict[str, Any]", results.units))
    outputs, name = run.read_outputs(), system or str(results.student)
    texts = [cast("dict[str, str]", line[mode])[name] for line in outputs]
    references = [str(line["reference"]) for line in outputs]
    statistics = corpus_metrics(units)[main.name].statistics(texts, references)
    return main.name, 1 if main.higher_is_better else -1, statistics

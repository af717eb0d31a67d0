"""What a run directory says, in typed form: the only module of this package that opens its files.

Every part but one is optional: a folder with results, or metrics, or samples, can be shown. Does
not compute, choose or format. A part that is there but damaged is an error: see `fields`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.records.atomic import JsonValue
from seqdistill.records.run_directory import METRICS, RunDirectory
from seqdistill.report import log_rows, results_rows
from seqdistill.report.contents import RunContents, Sample, System, Timing
from seqdistill.report.fields import needed_number, needed_text, number_at, rows_at, text_at, wrong
from seqdistill.report.log_rows import Rows


def read_contents(run_directory: Path) -> RunContents:
    """Everything in the folder that a report shows.

    Raises UserError when the folder is missing or holds neither results nor metrics, and when a
    file in it is damaged.
    """
    if not run_directory.is_dir():
        raise UserError(
            f"a report is made from a run directory, got {str(run_directory)!r}, which is no "
            "folder; name the output_dir of a run"
        )
    run = RunDirectory(run_directory)
    results = run.read_results() if run.results_path.exists() else {}
    where = str(run.results_path)
    metrics = results_rows.metrics(results, where)
    systems = _systems(results, "systems", where)
    logged = {folder: RunDirectory(folder).read_metrics() for folder in _folders(run)}
    dev_metric = log_rows.dev_metric(list(logged.values()), metrics)
    logs = tuple(
        log_rows.training_log(
            name,
            logged[folder],
            RunDirectory(folder).read_rollouts(),
            dev=dev_metric,
            where=(str(RunDirectory(folder).metrics_path), str(RunDirectory(folder).rollouts_path)),
        )
        for folder, name in _names(run, systems, logged).items()
    )
    if not results and not logs:
        raise UserError(
            f"a report needs results.json or {METRICS}, got {str(run_directory)!r}, which has "
            "neither; train or evaluate into this folder first"
        )
    manifest = run.read_manifest() if run.manifest_path.exists() else {}
    created = results.get("created") or manifest.get("created")
    return RunContents(
        folder=run_directory.resolve().name,
        created=str(created) if created else None,
        metrics=metrics,
        systems=systems,
        copies=_systems(results, "exports", where),
        comparisons=tuple(
            results_rows.comparison(row, metrics, where)
            for row in rows_at(results, "paired_tests", where)
        ),
        baseline=text_at(results, "baseline"),
        notes=_notes(results.get("metric_notes")),
        logs=logs,
        dev_metric=dev_metric,
        entropy=results_rows.entropy(results, where),
        samples=tuple(_sample(row, str(run.samples_path)) for row in run.read_samples()),
        timings=tuple(
            _timing(row, str(run.manifest_path))
            for row in rows_at(manifest, "timings", str(run.manifest_path))
        ),
        facts=_facts(manifest),
        recipe=run.read_recipe() if run.recipe_path.exists() else None,
    )


def _systems(results: Mapping[str, JsonValue], key: str, where: str) -> tuple[System, ...]:
    metrics = results_rows.metrics(results, where)
    return tuple(results_rows.system(row, metrics, where) for row in rows_at(results, key, where))


def _folders(run: RunDirectory) -> list[Path]:
    """The run's own and those of the runs inside it."""
    return [run.path, *sorted(child for child in run.path.iterdir() if child.is_dir())]


def _names(
    run: RunDirectory, systems: Sequence[System], logged: Mapping[Path, Rows]
) -> dict[Path, str]:
    """What the runs that logged something are called, in the order of the systems' rows."""
    students = [s for s in systems if not (s.is_teacher or s.is_start)] or list(systems)
    found: dict[Path, str] = {}
    for folder in (folder for folder, rows in logged.items() if rows):
        name = folder.resolve().name
        of_method = [s.name for s in systems if s.method == name]
        if all(s.name != name for s in systems):
            if of_method:
                name = of_method[0]
            elif folder == run.path and students:  # a single run, whatever its folder is called
                name = students[0].name
        found[folder] = name
    order = {s.name: position for position, s in enumerate(systems)}
    return dict(sorted(found.items(), key=lambda item: order.get(item[1], len(order))))


def _sample(row: Mapping[str, JsonValue], where: str) -> Sample:
    outputs = row.get("outputs")
    if not isinstance(outputs, dict):
        raise wrong(where, "outputs", "an object of texts by system name", outputs)
    return Sample(
        id=str(row.get("id", "")),
        source=text_at(row, "source") or "",
        reference=text_at(row, "reference"),
        outputs={name: str(text) for name, text in outputs.items()},
    )


def _timing(row: Mapping[str, JsonValue], where: str) -> Timing:
    return Timing(
        step=needed_text(row, "step", where),
        seconds=needed_number(row, "seconds", where),
        peak_memory_mb=number_at(row, "peak_memory_mb", where),
    )


def _facts(manifest: Mapping[str, JsonValue]) -> dict[str, dict[str, JsonValue]]:
    groups: dict[str, dict[str, JsonValue]] = {}
    rest: dict[str, JsonValue] = {}
    for key, value in manifest.items():
        if key == "timings":
            continue
        if isinstance(value, dict):
            groups[key] = value
        else:
            rest[key] = value
    return {**groups, "run": rest} if rest else groups


def _notes(value: JsonValue) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(f"{key}: {note}" for key, note in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(str(note) for note in value)
    return (str(value),) if value else ()

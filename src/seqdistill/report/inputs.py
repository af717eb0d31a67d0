"""What a run directory says, in typed form: the only module of this room that reads files.

Every part but one is optional: a folder with results, or metrics, or samples, can be shown. Does
not compute, choose or format. A part that is there but damaged is an error: see `fields`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.records.atomic import JsonValue
from seqdistill.records.run_directory import METRICS, RunDirectory
from seqdistill.report.contents import (
    TITLES,
    Comparison,
    Curve,
    EntropyCurve,
    Measured,
    Metric,
    RunContents,
    Sample,
    System,
    Timing,
)
from seqdistill.report.fields import (
    needed_number,
    needed_text,
    number_at,
    numbers_at,
    rows_at,
    text_at,
    wrong,
)

# What results were in before they said so.
_FORMERLY = (Metric("bleu", higher_is_better=True), Metric("chrf", higher_is_better=True))


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
    metrics = _metrics(results, where)
    systems = tuple(_system(row, metrics, where) for row in rows_at(results, "systems", where))
    dev_metric = _dev_metric(run, metrics)
    curves = _read_curves(run, systems, dev_metric)
    if not results and not curves:
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
        copies=tuple(_system(row, metrics, where) for row in rows_at(results, "exports", where)),
        comparisons=tuple(
            _comparison(row, metrics, where) for row in rows_at(results, "paired_tests", where)
        ),
        baseline=text_at(results, "baseline"),
        notes=_notes(results.get("metric_notes")),
        curves=curves,
        dev_metric=dev_metric,
        entropy=_entropy(results, where),
        samples=tuple(_sample(row, str(run.samples_path)) for row in run.read_samples()),
        timings=tuple(
            _timing(row, str(run.manifest_path))
            for row in rows_at(manifest, "timings", str(run.manifest_path))
        ),
        facts=_facts(manifest),
        recipe=run.read_recipe() if run.recipe_path.exists() else None,
    )


def _metrics(results: Mapping[str, JsonValue], where: str) -> tuple[Metric, ...]:
    rows = rows_at(results, "metrics", where)
    found = []
    for row in rows:
        upward = row.get("higher_is_better")
        if not isinstance(upward, bool):
            raise wrong(where, "higher_is_better", "true or false", upward)
        found.append(Metric(needed_text(row, "name", where), higher_is_better=upward))
    return tuple(found) or _FORMERLY


def _dev_metric(run: RunDirectory, metrics: Sequence[Metric]) -> Metric:
    """The first of the metrics that dev was scored by while training; else the first known one."""
    logged = {
        key
        for folder in _folders(run)
        for row in RunDirectory(folder).read_metrics()
        for key in row
    }
    known = [*metrics, *_FORMERLY, *(Metric(name, higher_is_better=False) for name in TITLES)]
    return next((metric for metric in known if f"dev_{metric.name}" in logged), metrics[0])


def _folders(run: RunDirectory) -> list[Path]:
    """The run's own and those of the runs inside it."""
    return [run.path, *sorted(child for child in run.path.iterdir() if child.is_dir())]


def _read_curves(
    run: RunDirectory, systems: Sequence[System], dev_metric: Metric
) -> tuple[Curve, ...]:
    """The curves of the run itself and of the runs in its sub-folders, in the rows' order."""
    students = [s for s in systems if not s.is_teacher] or list(systems)
    found = []
    for folder in _folders(run):
        rows = RunDirectory(folder).read_metrics()
        if not rows:
            continue
        name = folder.resolve().name
        of_method = [s.name for s in systems if s.method == name]
        if all(s.name != name for s in systems):
            if of_method:
                name = of_method[0]
            elif folder == run.path and students:  # a single run, whatever its folder is called
                name = students[0].name
        dev = _series(rows, f"dev_{dev_metric.name}")
        found.append(Curve(name, _series(rows, "loss_nats"), dev))
    order = {s.name: position for position, s in enumerate(systems)}
    return tuple(sorted(found, key=lambda curve: order.get(curve.name, len(order))))


def _series(rows: Sequence[Mapping[str, JsonValue]], key: str) -> tuple[tuple[float, float], ...]:
    points = []
    for row in rows:
        update, value = row.get("updates", row.get("step")), row.get(key)
        if (
            isinstance(update, (int, float))
            and isinstance(value, (int, float))
            and math.isfinite(value)
        ):
            points.append((float(update), float(value)))
    return tuple(points)


def _system(row: Mapping[str, JsonValue], metrics: Sequence[Metric], where: str) -> System:
    name = needed_text(row, "name", where)
    main = metrics[0]

    def number(key: str) -> float | None:
        return number_at(row, key, f"{where}, system {name!r}")

    def measured(key: str) -> Measured | None:
        value, low, high = (number(f"{key}{end}") for end in ("", "_low", "_high"))
        return None if value is None else Measured(value, low, high)

    second = number(f"{metrics[1].name}_beam") if len(metrics) > 1 else None

    return System(
        name=name,
        method=text_at(row, "method") or name,
        init=text_at(row, "init"),
        parameters=number("parameters"),
        size_bytes=number("bytes"),
        metric=main,
        greedy=number(f"{main.name}_greedy"),
        beam=number(f"{main.name}_beam"),
        beam_low=number(f"{main.name}_beam_low"),
        beam_high=number(f"{main.name}_beam_high"),
        # Formerly chrF had a column of beam search alone.
        second=number(metrics[1].name) if second is None and len(metrics) > 1 else second,
        gap=measured("greedy_beam_gap"),
        perplexity=number("perplexity"),
        mode_share=number("mode_share"),
        mode_share_low=number("mode_share_low"),
        mode_share_high=number("mode_share_high"),
        entropy_nats=number("entropy_nats"),
        length_ratio_greedy=number("length_ratio_greedy"),
        length_ratio_beam=number("length_ratio_beam"),
        agreement=number("agreement_top1"),
        to_teacher=measured(f"{main.name}_to_teacher"),
        words_per_second_greedy=number("words_per_second_greedy"),
        words_per_second_beam=number("words_per_second_beam"),
        signature=text_at(row, "signature"),
        folder=text_at(row, "folder"),
    )


def _entropy(results: Mapping[str, JsonValue], where: str) -> tuple[EntropyCurve, ...]:
    analyses = results.get("analyses")
    by_name = analyses.get("entropy_by_position") if isinstance(analyses, dict) else None
    if by_name is None:
        return ()
    if not isinstance(by_name, dict):
        raise wrong(where, "entropy_by_position", "an object of curves by system name", by_name)
    return tuple(
        EntropyCurve(
            name, numbers_at(curve, "entropy_nats", where), numbers_at(curve, "counts", where)
        )
        for name, curve in by_name.items()
    )


def _comparison(row: Mapping[str, JsonValue], metrics: Sequence[Metric], where: str) -> Comparison:
    name = text_at(row, "metric") or "bleu"
    falling = [metric for metric in metrics if not metric.higher_is_better]
    return Comparison(
        system=needed_text(row, "system", where),
        versus=needed_text(row, "versus", where),
        metric=name,
        higher_is_better=not any(name.startswith(metric.name) for metric in falling),
        delta=needed_number(row, "delta", where),
        p_value=needed_number(row, "p_value", where),
        low=number_at(row, "low", where),
        high=number_at(row, "high", where),
        test=text_at(row, "test") or "paired test",
    )


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

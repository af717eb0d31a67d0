"""What a run directory says, in typed form: the only module of this room that reads files.

Every part but one is optional: a folder with results, or metrics, or samples, can be shown. Does
not compute, choose or format. A part that is there but damaged is an error naming file and key,
since a report with a silent hole would be believed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.records.atomic import JsonValue
from seqdistill.records.run_directory import METRICS, RunDirectory


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measure of quality: what people call it, and which way is up."""

    name: str
    higher_is_better: bool

    @property
    def title(self) -> str:
        """`BLEU`, `token error rate`, ..."""
        return _TITLES.get(self.name, self.name)

    def worth(self, value: float) -> float:
        """The value so that more is better."""
        return value if self.higher_is_better else -value


_TITLES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "token_error_rate": "token error rate",
    "sequence_error_rate": "sequence error rate",
}
# What results were in before they said so.
_FORMERLY = (Metric("bleu", higher_is_better=True), Metric("chrf", higher_is_better=True))


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value and its interval, whose ends are both given or both None."""

    value: float
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class System:
    """One row of the results: a model as it was measured. None is what was not measured."""

    name: str
    method: str
    init: str | None
    parameters: float | None
    size_bytes: float | None
    metric: Metric
    """The main one: what `greedy` and `beam` are in."""
    greedy: float | None
    beam: float | None
    beam_low: float | None
    beam_high: float | None
    second: float | None
    """By the second metric, beam search."""
    gap: Measured | None
    """What beam search gains over greedy decoding."""
    perplexity: float | None
    mode_share: float | None
    mode_share_low: float | None
    mode_share_high: float | None
    entropy_nats: float | None
    length_ratio_greedy: float | None
    length_ratio_beam: float | None
    agreement: float | None
    """Share of reference positions at which it finds the teacher's likeliest token likeliest."""
    to_teacher: Measured | None
    """The main metric against the teacher's outputs."""
    words_per_second_greedy: float | None
    words_per_second_beam: float | None
    signature: str | None
    folder: str | None = None
    """Where in the run directory it lies, of a copy."""

    @property
    def is_teacher(self) -> bool:
        """Whether the others learned from this one."""
        return self.method == "teacher"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One paired test between two systems."""

    system: str
    versus: str
    metric: str
    higher_is_better: bool
    delta: float
    p_value: float
    low: float | None
    high: float | None
    test: str


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one training run logged: (update, value) pairs in order."""

    name: str
    loss_nats: tuple[tuple[float, float], ...]
    dev: tuple[tuple[float, float], ...]
    """Dev scores in the run's `dev_metric`."""


@dataclasses.dataclass(frozen=True)
class EntropyCurve:
    """A system's mean entropy in nats at target positions 1, 2, 3, ..."""

    name: str
    entropy_nats: tuple[float, ...]
    counts: tuple[float, ...]
    """How many references reach each position."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sentence with everybody's output, by system name."""

    id: str
    source: str
    reference: str | None
    outputs: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How long a step took and how much memory it needed at its peak."""

    step: str
    seconds: float
    peak_memory_mb: float | None


@dataclasses.dataclass(frozen=True)
class RunContents:
    """All that the page shows."""

    folder: str
    created: str | None
    metrics: tuple[Metric, ...]
    """The first is the main one."""
    systems: tuple[System, ...]
    copies: tuple[System, ...]
    """Other forms of a student, such as int8, which stand beside the systems."""
    comparisons: tuple[Comparison, ...]
    baseline: str | None
    notes: tuple[str, ...]
    curves: tuple[Curve, ...]
    dev_metric: Metric
    entropy: tuple[EntropyCurve, ...]
    samples: tuple[Sample, ...]
    timings: tuple[Timing, ...]
    facts: dict[str, dict[str, JsonValue]]
    """The manifest's groups of facts: versions, machine, and the rest under `run`."""
    recipe: str | None


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
    systems = tuple(_system(row, metrics, where) for row in _rows(results, "systems", where))
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
        copies=tuple(_system(row, metrics, where) for row in _rows(results, "exports", where)),
        comparisons=tuple(
            _comparison(row, metrics, where) for row in _rows(results, "paired_tests", where)
        ),
        baseline=_text(results, "baseline"),
        notes=_notes(results.get("metric_notes")),
        curves=curves,
        dev_metric=dev_metric,
        entropy=_entropy(results, where),
        samples=tuple(_sample(row, str(run.samples_path)) for row in run.read_samples()),
        timings=tuple(
            _timing(row, str(run.manifest_path))
            for row in _rows(manifest, "timings", str(run.manifest_path))
        ),
        facts=_facts(manifest),
        recipe=run.read_recipe() if run.recipe_path.exists() else None,
    )


def _metrics(results: Mapping[str, JsonValue], where: str) -> tuple[Metric, ...]:
    rows = _rows(results, "metrics", where)
    found = [
        Metric(_needed_text(row, "name", where), higher_is_better=bool(row.get("higher_is_better")))
        for row in rows
    ]
    return tuple(found) or _FORMERLY


def _dev_metric(run: RunDirectory, metrics: Sequence[Metric]) -> Metric:
    """The first of the metrics that dev was scored by while training; else the first known one."""
    logged = {
        key
        for folder in _folders(run)
        for row in RunDirectory(folder).read_metrics()
        for key in row
    }
    known = [*metrics, *_FORMERLY, *(Metric(name, higher_is_better=False) for name in _TITLES)]
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
    name = _needed_text(row, "name", where)
    main = metrics[0]

    def number(key: str) -> float | None:
        return _number(row, key, f"{where}, system {name!r}")

    def measured(key: str) -> Measured | None:
        value, low, high = (number(f"{key}{end}") for end in ("", "_low", "_high"))
        return None if value is None else Measured(value, low, high)

    second = number(f"{metrics[1].name}_beam") if len(metrics) > 1 else None

    return System(
        name=name,
        method=_text(row, "method") or name,
        init=_text(row, "init"),
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
        signature=_text(row, "signature"),
        folder=_text(row, "folder"),
    )


def _entropy(results: Mapping[str, JsonValue], where: str) -> tuple[EntropyCurve, ...]:
    analyses = results.get("analyses")
    by_name = analyses.get("entropy_by_position") if isinstance(analyses, dict) else None
    if by_name is None:
        return ()
    if not isinstance(by_name, dict):
        raise _wrong(where, "entropy_by_position", "an object of curves by system name", by_name)
    return tuple(
        EntropyCurve(name, _floats(curve, "entropy_nats", where), _floats(curve, "counts", where))
        for name, curve in by_name.items()
    )


def _floats(holder: object, key: str, where: str) -> tuple[float, ...]:
    values = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
        raise _wrong(where, key, "a list of numbers", values)
    return tuple(float(value) for value in values)


def _comparison(row: Mapping[str, JsonValue], metrics: Sequence[Metric], where: str) -> Comparison:
    name = _text(row, "metric") or "bleu"
    falling = [metric for metric in metrics if not metric.higher_is_better]
    return Comparison(
        system=_needed_text(row, "system", where),
        versus=_needed_text(row, "versus", where),
        metric=name,
        higher_is_better=not any(name.startswith(metric.name) for metric in falling),
        delta=_needed_number(row, "delta", where),
        p_value=_needed_number(row, "p_value", where),
        low=_number(row, "low", where),
        high=_number(row, "high", where),
        test=_text(row, "test") or "paired test",
    )


def _sample(row: Mapping[str, JsonValue], where: str) -> Sample:
    outputs = row.get("outputs")
    if not isinstance(outputs, dict):
        raise _wrong(where, "outputs", "an object of texts by system name", outputs)
    return Sample(
        id=str(row.get("id", "")),
        source=_text(row, "source") or "",
        reference=_text(row, "reference"),
        outputs={name: str(text) for name, text in outputs.items()},
    )


def _timing(row: Mapping[str, JsonValue], where: str) -> Timing:
    return Timing(
        step=_needed_text(row, "step", where),
        seconds=_needed_number(row, "seconds", where),
        peak_memory_mb=_number(row, "peak_memory_mb", where),
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


def _rows(holder: Mapping[str, JsonValue], key: str, where: str) -> list[dict[str, JsonValue]]:
    rows = holder.get(key)
    if rows is None:
        return []
    if not isinstance(rows, list):
        raise _wrong(where, key, "a list of objects", rows)
    found: list[dict[str, JsonValue]] = []
    for row in rows:
        if not isinstance(row, dict):
            raise _wrong(where, key, "a list of objects", row)
        found.append(row)
    return found


def _text(row: Mapping[str, JsonValue], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else str(value)


def _needed_text(row: Mapping[str, JsonValue], key: str, where: str) -> str:
    value = _text(row, key)
    if value is None:
        raise _wrong(where, key, "a text", value)
    return value


def _number(row: Mapping[str, JsonValue], key: str, where: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(where, key, "a number", value)
    return float(value) if math.isfinite(value) else None


def _needed_number(row: Mapping[str, JsonValue], key: str, where: str) -> float:
    value = _number(row, key, where)
    if value is None:
        raise _wrong(where, key, "a number", value)
    return value


def _wrong(where: str, key: str, wanted: str, found: JsonValue) -> UserError:
    return UserError(f"{where}: {key!r} must be {wanted}, got {found!r}; evaluate the run again")

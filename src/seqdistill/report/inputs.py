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
class System:
    """One row of the results: a model as it was measured. None is what was not measured."""

    name: str
    method: str
    init: str | None
    parameters: float | None
    size_bytes: float | None
    bleu_greedy: float | None
    bleu_beam: float | None
    bleu_beam_low: float | None
    bleu_beam_high: float | None
    chrf: float | None
    chrf_low: float | None
    chrf_high: float | None
    perplexity: float | None
    mode_share: float | None
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
    dev_bleu: tuple[tuple[float, float], ...]


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
    systems: tuple[System, ...]
    copies: tuple[System, ...]
    """Other forms of a student, such as int8, which stand beside the systems."""
    comparisons: tuple[Comparison, ...]
    baseline: str | None
    notes: tuple[str, ...]
    curves: tuple[Curve, ...]
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
    systems = tuple(_system(row, where) for row in _rows(results, "systems", where))
    curves = _read_curves(run, systems)
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
        systems=systems,
        copies=tuple(_system(row, where) for row in _rows(results, "exports", where)),
        comparisons=tuple(_comparison(r, where) for r in _rows(results, "paired_tests", where)),
        baseline=_text(results, "baseline"),
        notes=_notes(results.get("metric_notes")),
        curves=curves,
        samples=tuple(_sample(row, str(run.samples_path)) for row in run.read_samples()),
        timings=tuple(
            _timing(row, str(run.manifest_path))
            for row in _rows(manifest, "timings", str(run.manifest_path))
        ),
        facts=_facts(manifest),
        recipe=run.read_recipe() if run.recipe_path.exists() else None,
    )


def _read_curves(run: RunDirectory, systems: Sequence[System]) -> tuple[Curve, ...]:
    """The curves of the run itself and of the runs in its sub-folders, in the rows' order."""
    students = [s for s in systems if not s.is_teacher] or list(systems)
    found = []
    for folder in [run.path, *sorted(child for child in run.path.iterdir() if child.is_dir())]:
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
        found.append(Curve(name, _series(rows, "loss_nats"), _series(rows, "dev_bleu")))
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


def _system(row: Mapping[str, JsonValue], where: str) -> System:
    name = _needed_text(row, "name", where)

    def number(key: str) -> float | None:
        return _number(row, key, f"{where}, system {name!r}")

    return System(
        name=name,
        method=_text(row, "method") or name,
        init=_text(row, "init"),
        parameters=number("parameters"),
        size_bytes=number("bytes"),
        bleu_greedy=number("bleu_greedy"),
        bleu_beam=number("bleu_beam"),
        bleu_beam_low=number("bleu_beam_low"),
        bleu_beam_high=number("bleu_beam_high"),
        chrf=number("chrf"),
        chrf_low=number("chrf_low"),
        chrf_high=number("chrf_high"),
        perplexity=number("perplexity"),
        mode_share=number("mode_share"),
        words_per_second_greedy=number("words_per_second_greedy"),
        words_per_second_beam=number("words_per_second_beam"),
        signature=_text(row, "signature"),
        folder=_text(row, "folder"),
    )


def _comparison(row: Mapping[str, JsonValue], where: str) -> Comparison:
    return Comparison(
        system=_needed_text(row, "system", where),
        versus=_needed_text(row, "versus", where),
        metric=_text(row, "metric") or "bleu",
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

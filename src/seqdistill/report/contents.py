"""What a run directory holds, in typed form: the only module of this package that opens its files.

Every part but one is optional: a folder with results, or metrics, or samples, can be shown. A part
that is damaged is an error: a report with a silent hole would be believed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from seqdistill.core.errors import UserError
from seqdistill.core.phases import PHASES, PREFIX
from seqdistill.records.atomic import JsonValue
from seqdistill.records.results import (
    Alarm,
    Metric,
    Results,
    Rollout,
    Sample,
    System,
    Timing,
    parsed,
)
from seqdistill.records.run_directory import METRICS, RunDirectory

Points = tuple[tuple[float, float], ...]
"""(update, value) pairs in order."""
Rows = Sequence[Mapping[str, JsonValue]]
NOT_EVALUATED = Results(metrics=())
_HYPHEN = "\u2011"  # at which no line breaks


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """What one training run logged."""

    name: str
    curves: Mapping[str, Points]
    """Every number, by its name in the log."""
    rollouts: tuple[Rollout, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Seconds of each of `core.phases.PHASES` that there was, of a chain over all its stages."""

    def curve(self, key: str) -> Points:
        """The logged values; none where the key was not logged."""
        return self.curves.get(key, ())

    @property
    def is_on_policy(self) -> bool:
        """Whether sequences were sampled while the student trained."""
        return "completion_length" in self.curves or any(one.is_sampled for one in self.rollouts)


@dataclasses.dataclass(frozen=True)
class RunContents:
    """All that the page shows."""

    folder: str
    created: str | None
    results: Results
    logs: tuple[TrainingLog, ...]
    dev_metric: Metric | None
    """What dev was scored by while training."""
    samples: tuple[Sample, ...]
    timings: tuple[Timing, ...]
    facts: Mapping[str, Mapping[str, JsonValue]]
    """The manifest's groups of facts: versions, machine, and the rest under `run`."""
    recipe: str | None

    @property
    def measured(self) -> tuple[System, ...]:
        """The systems, then the copies."""
        return (*self.results.systems, *self.results.exports)

    @property
    def metric(self) -> Metric | None:
        """The main metric of the results."""
        return self.results.metrics[0] if self.results.metrics else None


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
    results = _read_results(run) if run.results_path.exists() else NOT_EVALUATED
    members = run.members()
    logged = {each.path: rows for each in (run, *members) if (rows := each.read_metrics())}
    logs = tuple(_log(name, path, logged[path]) for path, name in _names(run, results, logged))
    if results is NOT_EVALUATED and not logs:
        raise UserError(
            f"a report needs results.json or {METRICS}, got {str(run_directory)!r}, which has "
            "neither; train or evaluate into this folder first"
        )
    manifest = _manifest(run)
    created = results.created or manifest.get("created")
    timings = cast("list[object]", manifest.pop("timings", None) or [])
    return RunContents(
        folder=run_directory.resolve().name,
        created=None if created is None else str(created),
        results=results,
        logs=logs,
        dev_metric=_dev_metric(logs, results, [manifest, *map(_manifest, members)]),
        samples=tuple(run.read_samples()),
        timings=tuple(parsed(Timing, row, run.manifest_path) for row in timings),
        facts=_facts(manifest),
        recipe=run.read_recipe() if run.recipe_path.exists() else None,
    )


def _read_results(run: RunDirectory) -> Results:
    results = run.read_results()
    return results.model_copy(update={"metrics": tuple(map(_unbroken, results.metrics))})


def _unbroken(metric: Metric) -> Metric:
    """With a title that stays whole, as ROUGE-L should."""
    return metric.model_copy(update={"title": metric.title.replace("-", _HYPHEN)})


def _manifest(run: RunDirectory) -> dict[str, JsonValue]:
    return run.read_manifest() if run.manifest_path.exists() else {}


def _names(
    run: RunDirectory, results: Results, logged: Mapping[Path, Rows]
) -> list[tuple[Path, str]]:
    """What the runs that logged something are called, in the order of the systems."""
    systems = results.systems
    students = [system.name for system in systems if system.is_student]
    order = [system.name for system in systems]
    found = []
    for folder in logged:
        name = folder.resolve().name
        if name not in order:
            of_method = [system.name for system in systems if system.method == name]
            # A single run is its student's, whatever its folder is called.
            own = (students or order) if folder == run.path else []
            name = next(iter([*of_method, *own]), name)
        found.append((folder, name))
    return sorted(found, key=lambda each: order.index(each[1]) if each[1] in order else len(order))


def _log(name: str, folder: Path, rows: Rows) -> TrainingLog:
    run = RunDirectory(folder)
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        step = _number(row.get("step"), "step", run.metrics_path)
        for key, value in row.items():
            if value is not None and key != "step":
                number = _number(value, key, run.metrics_path)
                # An update for which nothing was sampled has no length of what was sampled.
                if math.isfinite(number):
                    curves.setdefault(key, []).append((step, number))
    kept = (parsed(Rollout, row, run.rollouts_path) for row in run.read_rollouts())
    alarms = (parsed(Alarm, row, run.alarms_path) for row in run.read_alarms())
    points = {key: tuple(each) for key, each in curves.items()}
    return TrainingLog(name, points, tuple(kept), tuple(alarms), _phases(rows))


def _phases(rows: Rows) -> dict[str, float]:
    """The last row of each stage has its seconds so far."""
    last = {
        (row.get("stage"), phase): float(str(row[f"{PREFIX}{phase}"]))
        for row in rows
        for phase in PHASES
        if f"{PREFIX}{phase}" in row
    }
    return {
        phase: sum(seconds for (_, name), seconds in last.items() if name == phase)
        for phase in PHASES
        if any(name == phase for _, name in last)
    }


def _number(value: JsonValue, key: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{path}: {key!r} must be a number, got {value!r}; restore the file")
    return float(value)


def _dev_metric(
    logs: Sequence[TrainingLog], results: Results, manifests: Sequence[Mapping[str, JsonValue]]
) -> Metric | None:
    """The first metric that dev was scored by, of those that results and manifests know."""
    judging = (manifest.get("judging") for manifest in manifests)
    noted = [
        row for each in judging if isinstance(each, dict) for row in each.get("dev_metrics", ())
    ]
    dev = (_unbroken(parsed(Metric, row, "judging in manifest.json")) for row in noted)
    known = [*results.metrics, *dev]
    logged = {key for log in logs for key in log.curves}
    return next((metric for metric in known if f"dev_{metric.name}" in logged), None)


def _facts(manifest: Mapping[str, JsonValue]) -> dict[str, Mapping[str, JsonValue]]:
    groups: dict[str, Mapping[str, JsonValue]] = {
        key: value for key, value in manifest.items() if isinstance(value, dict)
    }
    rest = {key: value for key, value in manifest.items() if key not in groups}
    return {**groups, "run": rest} if rest else groups


@functools.cache
def repetition(text: str) -> float:
    """The fraction of a text's 4-grams that it has had before."""
    # Imported here: it takes a second, which reports without rollouts need not wait.
    from seqdistill.metrics.diversity import repetition_rate

    return repetition_rate([text]).value


def repetition_curve(rollouts: Sequence[Rollout]) -> Points:
    """(update, repetition) of each sequence that a model wrote."""
    return tuple((float(one.step), repetition(one.written)) for one in rollouts if one.is_sampled)

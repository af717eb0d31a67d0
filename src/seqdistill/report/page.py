"""Lays out the report: one HTML file that refers to nothing outside itself.

Brings together what `inputs` read, `findings` says and `plots` drew, and hands it to the template,
which escapes every text. Does not measure, choose or write sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from seqdistill.metrics.soundness import RULE
from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import (
    cards,
    charts,
    differences,
    explaining,
    headlines,
    numbers,
    plots,
    reward_charts,
    reward_signals,
    rollout_samples,
    sampling,
    speeds,
    writing,
)
from seqdistill.report.contents import Metric, RunContents, System, TrainingLog
from seqdistill.report.glossary import glossary
from seqdistill.report.inputs import read_contents

NUM_COLOURS = 6
"""--series-1 to --series-6 in style.css; --series-0 is the teacher's."""
TEACHER = plots.Look(0, "diamond")


def build_report(run_directory: Path) -> str:
    """The report on a run or a comparison, as the text of one HTML page.

    Raises UserError when the folder is no run directory or a file in it is damaged.
    """
    contents = read_contents(run_directory)
    looks = _looks(contents)
    measured = (*contents.systems, *contents.copies)
    trained = [system for system in measured if not system.is_start]
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_package_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        style=Markup(_package_text("style.css")),
        contents=contents,
        looks=looks,
        numbers=numbers,
        headlines=headlines,
        cards=cards,
        pieces=differences.pieces,
        second=contents.metrics[1] if len(contents.metrics) > 1 else None,
        best=headlines.recommended(contents.systems),
        measured=measured,
        alarms=headlines.broken(measured),
        signatures=headlines.signatures(measured, contents.metrics),
        rule=RULE,
        quality_range=_quality_range(trained),
        trade_offs=charts.trade_offs(measured, looks),
        learning=charts.learning(contents.logs, contents.dev_metric, looks),
        explaining=explaining.charts_of(contents, looks),
        glossary=glossary(contents),
        **_of_sampling(measured, contents.metrics, looks),
        **_of_writing(contents.logs, contents.dev_metric, looks),
    )


def _of_sampling(
    systems: Sequence[System], metrics: Sequence[Metric], looks: dict[str, plots.Look]
) -> dict[str, object]:
    """What `sampling.html.jinja` shows."""
    sampled = sampling.sampled(systems)
    return {
        "sampled": sampled,
        "sampled_metrics": sampling.metrics_of(sampled, metrics),
        "sampled_chart": sampling.chart_of(sampled, metrics[0], looks),
    }


def _of_writing(
    logs: Sequence[TrainingLog], metric: Metric, looks: dict[str, plots.Look]
) -> dict[str, object]:
    """What `writing.html.jinja` shows."""
    writers = writing.writers(logs)
    verdicts = [reward_signals.verdict(log, metric) for log in writers]
    speed = speeds.chart_of(writers, looks)
    written = [*writing.charts_of(logs, looks), *([speed] if speed is not None else [])]
    return {
        "written": written,
        "origin": writing.shown(logs),
        "verdicts_of_rewards": [v for v in verdicts if v.is_rewarded],
        "verdicts_without_reward": [v for v in verdicts if not v.is_rewarded],
        "reward_charts": reward_charts.charts_of(logs, metric, looks),
        "signals": reward_signals,
        "suspects": {v.system for v in verdicts if v.signs},
        "written_tables": rollout_samples.tables(writers),
        "WRITERS": rollout_samples.WRITERS,
    }


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into the run directory and returns its path."""
    path = RunDirectory(run_directory).report_path
    atomic.write_text(path, build_report(run_directory))
    return path


def _package_text(name: str) -> str:
    return resources.files("seqdistill.report").joinpath(name).read_text(encoding="utf-8")


def _looks(contents: RunContents) -> dict[str, plots.Look]:
    """The colour and marker of every system, by name, the same in all charts and tables."""
    teachers = {system.name for system in contents.systems if system.is_teacher} or {"teacher"}
    names = [system.name for system in contents.systems]
    names += [log.name for log in contents.logs]
    names += [copy.name for copy in contents.copies]
    names += [name for sample in contents.samples for name in sample.outputs]
    markers = [marker for marker in plots.MARKERS if marker != TEACHER.marker]
    starts = [system.name for system in contents.systems if system.is_start]
    students = [name for name in dict.fromkeys(names) if name not in {*teachers, *starts}]
    students += starts  # last, so that students look the same with and without
    looks = dict.fromkeys(names, TEACHER)
    for position, name in enumerate(students):
        looks[name] = plots.Look(1 + position % NUM_COLOURS, markers[position % len(markers)])
    return looks


def _quality_range(systems: Sequence[System]) -> tuple[float, float] | None:
    """The ends of the scale on which the table draws intervals."""
    values = [
        value for s in systems for value in (s.beam, s.beam_low, s.beam_high) if value is not None
    ]
    if not values:
        return None
    low, high = min(values), max(values)
    padding = 0.06 * (high - low) or 1.0
    return low - padding, high + padding

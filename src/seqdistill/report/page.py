"""Lays out the report: one HTML file that refers to nothing outside itself.

The template escapes every text; only our own SVG and CSS are markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from seqdistill.core.phases import PHASES
from seqdistill.metrics.soundness import RULE
from seqdistill.records import atomic
from seqdistill.records.results import System, number
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import (
    charts,
    differences,
    headlines,
    numbers,
    plots,
    rollouts,
)
from seqdistill.report.contents import RunContents, read_contents

NUM_COLOURS = 6
"""--series-1 to --series-6 in style.css; --series-0 is the teacher's."""
TEACHER = plots.Look(0, "diamond")


def build_report(run_directory: Path) -> str:
    """The report on a run or a comparison, as the text of one HTML page.

    Raises UserError when the folder is no run directory or a file in it is damaged.
    """
    contents = read_contents(run_directory)
    looks = _looks(contents)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_package_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    on_policy = [log for log in contents.logs if log.is_on_policy]
    verdicts = [rollouts.verdict(log, contents.dev_metric) for log in on_policy]
    return environment.get_template("page.html.jinja").render(
        style=Markup(_package_text("style.css")),
        contents=contents,
        results=contents.results,
        looks=looks,
        number=number,
        numbers=numbers,
        headlines=headlines,
        figures=headlines.figures(contents.results),
        pieces=differences.pieces,
        pairs=_pairs,
        about=_about,
        engines=_engines(contents.measured),
        rule=RULE,
        quality_range=_quality_range(contents),
        columns=headlines.columns_of(contents.results.metrics, contents.measured),
        trade_offs=charts.trade_offs(contents, looks),
        analysis=charts.analysis(contents, looks),
        sampled_metrics=[
            metric
            for metric in contents.results.metrics
            if any(metric.name in at.scores for s in contents.measured for at in s.sampled)
        ],
        sampling=charts.sampling(contents, looks),
        own_outputs=[s for s in contents.measured if s.forced or s.kl_student_teacher_own],
        training=charts.training(contents, looks),
        phases={
            key: title
            for key, title in PHASES.items()
            if any(key in log.phases for log in contents.logs)
        },
        rollouts=charts.rollouts(contents.logs, looks),
        rewards=charts.rewards(contents, looks),
        sampling_fractions={log.name: charts.sampling_fraction(log) for log in on_policy},
        verdicts=verdicts,
        signals=rollouts,
        rollout_tables=rollouts.tables(on_policy),
        ORIGINS=rollouts.ORIGINS,
    )


def write_report(run_directory: Path) -> Path:
    """Writes `report.html` into the run directory and returns its path."""
    path = RunDirectory(run_directory).report_path
    atomic.write_text(path, build_report(run_directory))
    return path


def _package_text(name: str) -> str:
    return resources.files("seqdistill.report").joinpath(name).read_text(encoding="utf-8")


def _pairs(systems: Sequence[System], key: str) -> list[tuple[str, float]]:
    """(name, value) of the systems of which it was measured."""
    found = [(system.name, number(getattr(system, key))) for system in systems]
    return [(name, value) for name, value in found if value is not None]


def _about(system: System) -> str:
    """What stands below a system's name: how it was made."""
    title = system.init if system.copy_of else headlines.METHOD_TITLES.get(system.method)
    return title or ""


def _engines(systems: Sequence[System]) -> dict[str, list[str]]:
    """The systems that each engine decoded, by name."""
    found: dict[str, list[str]] = {}
    for system in systems:
        if system.engine is not None:
            found.setdefault(system.engine, []).append(system.name)
    return found


def _looks(contents: RunContents) -> dict[str, plots.Look]:
    """The colour and marker of every system, by name, the same in all charts and tables."""
    teacher, start = contents.results.teacher, contents.results.start
    names = [system.name for system in contents.results.systems]
    names += [log.name for log in contents.logs]
    names += [copy.name for copy in contents.results.exports]
    names += [name for sample in contents.samples for name in sample.outputs]
    markers = [marker for marker in plots.MARKERS if marker != TEACHER.marker]
    last = [] if start is None else [start.name]  # so that students look the same with and without
    taught = "teacher" if teacher is None else teacher.name
    students = [name for name in dict.fromkeys(names) if name not in {taught, *last}] + last
    return {taught: TEACHER} | {
        name: plots.Look(1 + place % NUM_COLOURS, markers[place % len(markers)])
        for place, name in enumerate(students)
    }


def _quality_range(contents: RunContents) -> tuple[float, float] | None:
    """The ends of the scale on which the table draws intervals."""
    metric = contents.metric
    if metric is None:
        return None
    scores = [
        system.beam.scores[metric.name]
        for system in contents.measured
        if system is not contents.results.start and metric.name in system.beam.scores
    ]
    ends = [end for s in scores for end in (s.value, s.low, s.high) if end is not None]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    padding = 0.06 * (high - low) or 1.0
    return low - padding, high + padding

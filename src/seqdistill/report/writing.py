"""Charts of how a student wrote while it trained: length, ends, certainty, staleness.

Each with a sentence that says what one sees in it; what was not logged has no chart. Judges
nothing: see `reward_signals`; for how fast it wrote see `speeds`.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from markupsafe import Markup

from seqdistill.report import numbers, plots
from seqdistill.report.charts import Chart
from seqdistill.report.contents import Points, TrainingLog
from seqdistill.report.svg import SMALL

Looks = dict[str, plots.Look]


@dataclasses.dataclass(frozen=True)
class Measure:
    """A quantity that is logged while a student writes, and how it is told."""

    key: str
    title: str
    y_label: str
    show: Callable[[float | None], str]
    meaning: str
    unit: str = ""
    factor: float = 1.0
    """From what is logged to what is drawn."""
    only_if_it_varies: bool = False


LENGTH = Measure(
    "completion_length",
    "Length",
    "tokens per sequence",
    numbers.fixed,
    "Tokens of a generated sequence, its end of sequence included.",
    unit=" tokens",
)
MEASURES = (
    LENGTH,
    Measure(
        "eos_rate",
        "Sequences with an end",
        "% of sequences",
        numbers.percent,
        "The others were cut at the limit of tokens.",
        factor=100.0,
    ),
    Measure(
        "student_entropy",
        "Entropy of the student",
        "nats per token",
        numbers.significant,
        "How undecided the student is about the next token, where it is trained.",
        unit=" nats",
    ),
    Measure(
        "teacher_reverse_kl",
        "KL(student ‖ teacher)",
        "nats per token",
        numbers.significant,
        "How much unlikelier the teacher finds what the student would write next: 0 where they "
        "agree.",
        unit=" nats",
    ),
    Measure(
        "staleness",
        "Staleness",
        "updates",
        numbers.fixed,
        "For how many updates the sequences had been kept: 0 is on-policy, more is replay.",
        unit=" updates",
        only_if_it_varies=True,
    ),
    Measure(
        "student_fraction",
        "Written by the student",
        "% of sequences",
        numbers.percent,
        "The others are of the mixture’s other writer.",
        factor=100.0,
        only_if_it_varies=True,
    ),
)


def writers(logs: Sequence[TrainingLog]) -> list[TrainingLog]:
    """The runs in which sequences were written while the student trained."""
    return [
        log
        for log in logs
        if LENGTH.key in log.measures or any(one.is_written for one in log.rollouts)
    ]


def shown(logs: Sequence[TrainingLog]) -> list[str]:
    """The runs that have a line in some chart here, by name."""
    keys = {measure.key for measure in MEASURES}
    return [log.name for log in logs if keys & log.measures.keys()]


def charts_of(logs: Sequence[TrainingLog], looks: Looks) -> list[Chart]:
    """A chart for every measure that was logged; none where no student wrote.

    Runs whose student only read have their lines, too, of what was logged of them.
    """
    if not writers(logs):
        return []
    found = [curve(measure, logs, looks) for measure in MEASURES]
    return [chart for chart in found if chart is not None]


def curve(
    measure: Measure,
    logs: Sequence[TrainingLog],
    looks: Looks,
    *,
    section: str = "written",
    size: tuple[float, float] = SMALL,
) -> Chart | None:
    """The chart of one measure; None where it was not logged, or never moved and need not be seen.

    The section makes the name of the same chart elsewhere on the page another.
    """
    found = [(log.name, log.measures[measure.key]) for log in logs if measure.key in log.measures]
    varies = any(len({value for _, value in points}) > 1 for _, points in found)
    if not found or (measure.only_if_it_varies and not varies):
        return None
    lines = [
        plots.Line(looks[name], [(update, measure.factor * value) for update, value in points])
        for name, points in found
    ]
    window = plots.smoothing(lines)
    svg = plots.over_updates(
        f"{section}-{measure.key}", lines, y_label=measure.y_label, window=window, size=size
    )
    ends = {name: first_and_last(points) for name, points in found}
    spoken = "; ".join(
        f"{name}: from {measure.show(first)} to {measure.show(last)}"
        for name, (first, last) in ends.items()
    )
    return Chart(
        measure.title,
        Markup(svg),
        f"{measure.title} over updates. {spoken}",
        f"{measure.meaning} {_seen(measure, ends)}{smoothed(window)}",
    )


def first_and_last(points: Points) -> tuple[float, float]:
    """The mean of the first and of the last tenth of the values."""
    values = [value for _, value in points]
    tenth = max(1, len(values) // 10)
    return statistics.fmean(values[:tenth]), statistics.fmean(values[-tenth:])


def _seen(measure: Measure, ends: dict[str, tuple[float, float]]) -> str:
    if len(ends) == 1:
        ((first, last),) = ends.values()
        if measure.show(first) == measure.show(last):
            return f"{measure.show(last)}{measure.unit} at the beginning and at the end."
        return f"From {measure.show(first)} to {measure.show(last)}{measure.unit}."
    lasts = {name: last for name, (_, last) in ends.items()}
    low, high = (chosen(lasts, key=lambda name: lasts[name]) for chosen in (min, max))
    if measure.show(lasts[low]) == measure.show(lasts[high]):
        return f"At the end {measure.show(lasts[low])}{measure.unit} in every run."
    return (
        f"At the end least in {low}, {measure.show(lasts[low])}, and most in {high}, "
        f"{measure.show(lasts[high])}{measure.unit}."
    )


def smoothed(window: int) -> str:
    """What a note adds where a running mean is drawn."""
    return f" Running mean of {window} points." if window > 1 else ""

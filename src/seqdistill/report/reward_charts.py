"""Charts of a reward beside what it stands for: dev score, length and repetition over updates.

Judges nothing: see `reward_signals`.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from markupsafe import Markup

from seqdistill.report import numbers, plots, reward_signals, writing
from seqdistill.report.charts import Chart
from seqdistill.report.contents import Metric, Points, Rollout, TrainingLog
from seqdistill.report.svg import FULL
from seqdistill.report.writing import Looks, Measure

REWARD = Measure(
    reward_signals.REWARD,
    "Reward",
    "reward",
    numbers.significant,
    "The mean reward of the student’s own sequences.",
)


def charts_of(logs: Sequence[TrainingLog], metric: Metric, looks: Looks) -> list[Chart]:
    """Reward, dev score, length and repetition over the same updates, of the runs with a reward."""
    logs = reward_signals.rewarded(logs)
    found = [
        writing.curve(REWARD, logs, looks, section="hacking", size=FULL),
        _dev(logs, metric, looks),
        writing.curve(writing.LENGTH, logs, looks, section="hacking", size=FULL),
        _repetitions(logs, looks),
    ]
    return [chart for chart in found if chart is not None]


def _dev(logs: Sequence[TrainingLog], metric: Metric, looks: Looks) -> Chart | None:
    scored = [log for log in logs if log.dev]
    if not scored:
        return None
    lines = [plots.Line(looks[log.name], log.dev) for log in scored]
    svg = plots.over_updates(
        "hacking-dev", lines, y_label=f"dev {metric.title}", window=1, size=FULL
    )
    told = "; ".join(_best_and_last(log, metric) for log in scored)
    title = f"{metric.title[:1].upper()}{metric.title[1:]} on dev"
    up = "up" if metric.higher_is_better else "down"
    return Chart(
        title,
        Markup(svg),
        f"{title} over updates. {told}",
        f"What the reward stands for: {up} is better. {told}.",
    )


def _best_and_last(log: TrainingLog, metric: Metric) -> str:
    update, best = max(log.dev, key=lambda point: metric.score_key(point[1]))
    at_the_end = log.dev[-1][1]
    if best == at_the_end:
        return f"{log.name}: best at the end, {numbers.fixed(best)}"
    return (
        f"{log.name}: best {numbers.fixed(best)} at update {numbers.count(update)}, "
        f"{numbers.fixed(at_the_end)} at the end"
    )


def _repetitions(logs: Sequence[TrainingLog], looks: Looks) -> Chart | None:
    rates = {log.name: _by_update(reward_signals.repetition_rates(log.rollouts)) for log in logs}
    rates = {name: points for name, points in rates.items() if points}
    if not rates:
        return None
    lines = [
        plots.Line(looks[name], [(update, 100.0 * rate) for update, rate in points])
        for name, points in rates.items()
    ]
    level = reference_repetition([one for log in logs for one in log.rollouts])
    window = plots.smoothing(lines)
    svg = plots.over_updates(
        "hacking-repetition",
        lines,
        y_label="% of runs of four words",
        window=window,
        size=FULL,
        level=None if level is None else 100.0 * level,
    )
    ends = {name: writing.first_and_last(points) for name, points in rates.items()}
    told = "; ".join(
        f"{name}: from {numbers.percent(first)} to {numbers.percent(last)}"
        for name, (first, last) in ends.items()
    )
    note = f"Runs of four words that a sequence has had before, of those kept. {told}."
    if level is not None:
        note += f" The dashed line is their references’ {numbers.percent(level)}."
    return Chart("Repetition", Markup(svg), f"Repetition over updates. {told}", note)


def _by_update(rates: Points) -> Points:
    by_update: dict[float, list[float]] = {}
    for update, rate in rates:
        by_update.setdefault(update, []).append(rate)
    return tuple((update, statistics.fmean(each)) for update, each in by_update.items())


def reference_repetition(rollouts: Sequence[Rollout]) -> float | None:
    """The share of repeated runs of four words in the references; None where there are none."""
    from seqdistill.metrics.diversity import repetition_rate

    references = {one.id: one.reference for one in rollouts if one.reference}
    texts = [text for text in references.values() if text]
    return repetition_rate(texts).value if texts else None

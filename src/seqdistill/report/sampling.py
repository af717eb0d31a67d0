"""What systems write when they sample: quality against diversity, by temperature.

Reads nothing and measures nothing; systems that were not sampled from have no row.
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from seqdistill.report import numbers, plots
from seqdistill.report.charts import Chart
from seqdistill.report.contents import Measured, Metric, Sampled, System

Looks = dict[str, plots.Look]


def sampled(systems: Sequence[System]) -> list[System]:
    """The systems that were sampled from."""
    return [system for system in systems if system.sampled]


def metrics_of(systems: Sequence[System], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics that some sample was scored by: the table's columns."""
    scored = {name for system in systems for at in system.sampled for name in at.scores}
    return [metric for metric in metrics if metric.name in scored]


def chart_of(systems: Sequence[System], metric: Metric, looks: Looks) -> Chart | None:
    """The main metric over how unlike each other samples are; None where either is missing."""
    dots: list[plots.Dot] = []
    told: list[str] = []
    for system in systems:
        for place, (at, score, likeness) in enumerate(_measured(system, metric)):
            dots.append(
                plots.Dot(
                    looks[system.name],
                    100.0 - likeness.value,
                    score.value,
                    filled=place > 0,
                    low=score.low,
                    high=score.high,
                )
            )
            told.append(
                f"{system.name} at {numbers.plain(at.temperature)}: {metric.title} "
                f"{numbers.fixed(score.value)}, self-BLEU {numbers.fixed(likeness.value)}"
            )
    if not dots:
        return None
    svg = plots.plane(
        "sampled", dots, x_label="100 − self-BLEU of the samples", y_label=metric.title
    )
    up = "up" if metric.higher_is_better else "down"
    return Chart(
        "Quality against diversity",
        Markup(svg),
        f"{metric.title} over 100 minus self-BLEU. {'; '.join(told)}",
        f"{_seen(systems, metric)} Right is more diverse, {up} is better. A line joins the "
        "temperatures of a system, the lowest hollow.",
    )


def _measured(system: System, metric: Metric) -> list[tuple[Sampled, Measured, Measured]]:
    return [
        (at, at.scores[metric.name], at.self_bleu)
        for at in system.sampled
        if metric.name in at.scores and at.self_bleu is not None
    ]


def _seen(systems: Sequence[System], metric: Metric) -> str:
    """Who is best and who most diverse at the highest temperature that several were sampled at."""
    rows = [(s, *row) for s in systems for row in _measured(s, metric)]
    at_each: dict[float, list[tuple[System, Sampled, Measured, Measured]]] = {}
    for row in rows:
        at_each.setdefault(row[1].temperature, []).append(row)
    shared = [t for t, each in at_each.items() if len(each) > 1]
    if not shared:
        return _from_low_to_high(rows, metric)
    each = at_each[max(shared)]
    best = max(each, key=lambda row: metric.score_key(row[2].value))
    varied = min(each, key=lambda row: row[3].value)
    at = f"At temperature {numbers.plain(max(shared))} "
    if best[0] is varied[0]:
        return (
            f"{at}{best[0].name} writes both best, {metric.title} {numbers.fixed(best[2].value)}, "
            f"and most diversely, self-BLEU {numbers.fixed(best[3].value)}."
        )
    return (
        f"{at}{best[0].name} writes best, {metric.title} {numbers.fixed(best[2].value)} at a "
        f"self-BLEU of {numbers.fixed(best[3].value)}, and {varied[0].name} most diversely, "
        f"self-BLEU {numbers.fixed(varied[3].value)} at a {metric.title} of "
        f"{numbers.fixed(varied[2].value)}."
    )


def _from_low_to_high(
    rows: Sequence[tuple[System, Sampled, Measured, Measured]], metric: Metric
) -> str:
    (_, low, quality, likeness), (_, high, later_quality, later_likeness) = rows[0], rows[-1]
    first, last = numbers.fixed(quality.value), numbers.fixed(later_quality.value)
    alike, later_alike = numbers.fixed(likeness.value), numbers.fixed(later_likeness.value)
    lowest, highest = numbers.plain(low.temperature), numbers.plain(high.temperature)
    if low is high:
        return f"At temperature {lowest} {metric.title} is {first} and self-BLEU {alike}."
    return (
        f"From temperature {lowest} to {highest} {metric.title} goes from {first} to {last} and "
        f"self-BLEU from {alike} to {later_alike}."
    )

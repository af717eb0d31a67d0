"""How fast a student wrote while it trained, beside how fast it trained.

Takes times and counts as they were logged; measures nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

from markupsafe import Markup

from seqdistill.report import numbers, plots, writing
from seqdistill.report.charts import Chart
from seqdistill.report.contents import Points, TrainingLog
from seqdistill.report.svg import SMALL
from seqdistill.report.writing import Looks


def chart_of(logs: Sequence[TrainingLog], looks: Looks) -> Chart | None:
    """Tokens a second of writing, and of whole updates; None where no writing was timed."""
    lines: list[plots.Line] = []
    shares: dict[str, float] = {}
    for log in logs:
        written = log.measures.get("generation_tokens_per_second", ())
        share = generation_share(log)
        if share is None or not written:
            continue
        shares[log.name] = share
        lines += [
            plots.Line(looks[log.name], written),
            plots.Line(looks[log.name], training_rates(log), style="dashed"),
        ]
    lines = [
        dataclasses.replace(line, points=[(x, y) for x, y in line.points if y > 0.0])
        for line in lines
    ]
    if not shares or not any(line.points for line in lines):
        return None
    window = plots.smoothing(lines)
    svg = plots.over_updates(
        "written-speed",
        lines,
        y_label="tokens per second",
        window=window,
        size=SMALL,
        scale="log",
    )
    spoken = "; ".join(f"{name}: {numbers.percent(share)}" for name, share in shares.items())
    return Chart(
        "Rollout and training throughput",
        Markup(svg),
        f"Tokens per second, written and trained on. Share of the time that was writing: {spoken}",
        "Solid: tokens written in a second of writing. Dashed: tokens trained on in a second of "
        f"whole updates, writing included. {_time_sentence(shares)}{writing.smoothed(window)}",
    )


def _time_sentence(shares: dict[str, float]) -> str:
    if len({numbers.percent(share) for share in shares.values()}) == 1:
        return f"Writing took {numbers.percent(max(shares.values()))} of the training time."
    low, high = (chosen(shares, key=lambda name: shares[name]) for chosen in (min, max))
    return (
        f"Writing took from {numbers.percent(shares[low])} of the training time ({low}) to "
        f"{numbers.percent(shares[high])} ({high})."
    )


def generation_share(log: TrainingLog) -> float | None:
    """What share of the training time went into writing; None where that was not logged.

    Seconds of writing and of taking over the student's weights, a mean over the logged updates,
    over the seconds of an update. Updates for which nothing was written count as 0.
    """
    seconds = dict(log.measures.get("seconds", ()))
    last = max(seconds, default=0.0)
    if "rollouts" not in log.measures or last <= 0.0 or seconds[last] <= 0.0:
        return None
    writing = [
        sum(each)
        for each in zip(
            _writing_seconds(log, list(seconds), writer=""),
            _writing_seconds(log, list(seconds), writer="other_"),  # of a mixture both may write
            strict=True,
        )
    ]
    return min(1.0, statistics.fmean(writing) / (seconds[last] / last))


def _writing_seconds(log: TrainingLog, updates: Sequence[float], *, writer: str) -> list[float]:
    """Of each update; 0 where nothing was written."""
    sequences, length, rate, refreshing = (
        dict(log.measures.get(f"{writer}{key}", ()))
        for key in (
            "rollouts",
            "completion_length",
            "generation_tokens_per_second",
            "refresh_seconds",
        )
    )
    return [
        refreshing.get(update, 0.0)
        + (sequences[update] * length[update] / rate[update] if rate.get(update) else 0.0)
        for update in updates
    ]


def training_rates(log: TrainingLog) -> Points:
    """Tokens trained on a second between one logged update and the next."""
    tokens, seconds = (dict(log.measures.get(key, ())) for key in ("tokens", "seconds"))
    rates, before = [], (0.0, 0.0)
    for update in sorted(tokens.keys() & seconds.keys()):
        now = (tokens[update], seconds[update])
        if now[1] > before[1]:
            rates.append((update, (now[0] - before[0]) / (now[1] - before[1])))
        before = now
    return tuple(rates)

"""The rows of metrics.jsonl and rollouts.jsonl in typed form: curves, and kept sequences.

Opens no file, computes and chooses nothing. A field that is there but damaged is an error: see
`fields`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seqdistill.records.atomic import JsonValue
from seqdistill.report.contents import FALLING, TITLES, Metric, Points, Rollout, TrainingLog
from seqdistill.report.fields import needed_number, needed_text, number_at, text_at, wrong

Rows = Sequence[Mapping[str, JsonValue]]

_OF_A_WRITER = ("rollouts", "completion_length", "generation_tokens_per_second", "refresh_seconds")
MEASURES = (
    *_OF_A_WRITER,
    *(f"other_{name}" for name in _OF_A_WRITER),
    "eos_rate",
    "student_entropy",
    "teacher_reverse_kl",
    "reward",
    "staleness",
    "student_fraction",
    "tokens",
    "seconds",
)
"""What is read of the sequences written while a student trains; of a mixture, both writers'."""


def dev_metric(logs: Sequence[Rows], metrics: Sequence[Metric]) -> Metric:
    """The first of the metrics that dev was scored by while training; else the first known one."""
    logged = {key for rows in logs for row in rows for key in row}
    known = [*metrics, *(Metric(name, higher_is_better=name not in FALLING) for name in TITLES)]
    return next((metric for metric in known if f"dev_{metric.name}" in logged), metrics[0])


def training_log(
    name: str, rows: Rows, kept: Rows, *, dev: Metric, where: tuple[str, str]
) -> TrainingLog:
    """What one run logged: its metrics' `rows` and the sequences it `kept`; `where` they lie."""
    of_metrics, of_rollouts = where
    measures = {key: _points(rows, key, of_metrics) for key in MEASURES}
    return TrainingLog(
        name,
        loss_nats=_points(rows, "loss_nats", of_metrics),
        dev=_points(rows, f"dev_{dev.name}", of_metrics),
        dev_loss_nats=_points(rows, "dev_loss_nats", of_metrics),
        measures={key: points for key, points in measures.items() if points},
        rollouts=tuple(_rollout(row, of_rollouts) for row in kept),
    )


def _points(rows: Rows, key: str, where: str) -> Points:
    """The finite values: an update for which nothing was written has none of how it was."""
    points = []
    for row in rows:
        value = number_at(row, key, where)
        if value is not None:
            update = number_at(row, "updates", where)
            step = needed_number(row, "step", where) if update is None else update
            points.append((step, value))
    return tuple(points)


def _rollout(row: Mapping[str, JsonValue], where: str) -> Rollout:
    finished = row.get("finished")
    if not isinstance(finished, bool):
        raise wrong(where, "finished", "true or false", finished)
    step = needed_number(row, "step", where)
    sampled_at_update = number_at(row, "sampled_at_update", where)
    return Rollout(
        step=int(step),
        id=text_at(row, "id") or "",
        prompt=text_at(row, "prompt") or "",
        origin=needed_text(row, "origin", where),
        written=needed_text(row, "written", where),
        tokens=int(needed_number(row, "tokens", where)),
        finished=finished,
        reference=text_at(row, "reference"),
        reward=number_at(row, "reward", where),
        sampled_at_update=int(step if sampled_at_update is None else sampled_at_update),
    )

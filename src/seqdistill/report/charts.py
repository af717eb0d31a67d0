"""Charts of what quality costs and how it was learned, and what is said beside them.

Draws through `plots`; does not read, choose or lay out. What explains quality is in `explaining`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from markupsafe import Markup

from seqdistill.report import headlines, numbers, plots
from seqdistill.report.contents import Metric, System, TrainingLog


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it."""

    title: str
    svg: Markup
    description: str
    """Read aloud in place of the picture."""
    note: str


def trade_offs(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[Chart]:
    """Quality against speed and against size: what a choice between the systems rests on.

    Beside the students' sizes also stands the start, so that one sees what was learned.
    """
    trained = [system for system in systems if not system.is_start]
    if len(trained) < 2:  # one dot is no trade-off
        return []
    teacher = headlines.teacher_of(systems)
    level = teacher.beam if teacher is not None else None
    metric = systems[0].metric
    title, up = metric.title, "up" if metric.higher_is_better else "down"
    charts = []
    speed = _speed_dots(trained, looks)
    if speed:
        charts.append(
            Chart(
                "Quality against speed",
                Markup(
                    plots.scatter(
                        "speed", speed, x_label="sentences per second", y_label=title, level=level
                    )
                ),
                f"{title} over sentences per second. " + _spoken(trained, "sentences per second"),
                f"Right is faster, {up} is better. A thin line joins one system’s greedy (hollow) "
                "and beam-search (filled) decoding.",
            )
        )
    size = _size_dots(systems, looks)
    if size:
        charts.append(
            Chart(
                "Quality against size",
                Markup(
                    plots.scatter(
                        "size", size, x_label="size on disk, MB", y_label=title, level=level
                    )
                ),
                f"{title} over size on disk. " + _spoken(systems, "MB"),
                f"Left is smaller, {up} is better. Systems of the same size stand side by side.",
            )
        )
    return charts


def _speed_dots(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[plots.Dot]:
    dots = []
    for s in systems:
        if s.greedy is not None and s.sentences_per_second_greedy:
            speed = s.sentences_per_second_greedy
            dots.append(plots.Dot(looks[s.name], speed, s.greedy, filled=False))
        if s.beam is not None and s.sentences_per_second_beam:
            dots.append(_beam_dot(s, looks, s.sentences_per_second_beam, s.beam))
    return dots


def _size_dots(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[plots.Dot]:
    dots: list[plots.Dot] = []
    for s in systems:
        if s.beam is None or not s.size_bytes:
            continue
        megabytes = s.size_bytes / 1e6
        # Students often weigh the same to the byte: a few percent apart, all can be seen.
        while any(abs(megabytes / dot.x - 1.0) < 0.035 for dot in dots):
            megabytes *= 1.04
        dots.append(_beam_dot(s, looks, megabytes, s.beam))
    return dots


def _beam_dot(s: System, looks: dict[str, plots.Look], x: float, quality: float) -> plots.Dot:
    return plots.Dot(looks[s.name], x, quality, filled=True, low=s.beam_low, high=s.beam_high)


def _spoken(systems: Sequence[System], cost: str) -> str:
    def value(s: System) -> str:
        if cost == "MB":
            return numbers.size(s.size_bytes)
        return f"{numbers.rate(s.sentences_per_second_beam)} {cost}"

    return "; ".join(
        f"{s.name}: {s.metric.title} {numbers.fixed(s.beam)}, {value(s)}" for s in systems
    )


def learning(
    logs: Sequence[TrainingLog], metric: Metric, looks: dict[str, plots.Look]
) -> list[Chart]:
    """Dev scores, loss on dev and training loss over updates, of the runs that logged them."""
    charts = []
    dev = [plots.Line(looks[c.name], c.dev) for c in logs if c.dev]
    if dev:
        charts.append(
            Chart(
                f"{metric.title[:1].upper()}{metric.title[1:]} on dev",
                Markup(
                    plots.curves(
                        "dev",
                        dev,
                        x_label="updates",
                        y_label=f"dev {metric.title}",
                        marked=True,
                        window=1,
                    )
                ),
                f"Dev {metric.title} over updates. "
                + "; ".join(
                    f"{c.name}: {numbers.fixed(c.dev[-1][1])} at the end" for c in logs if c.dev
                ),
                "Measured by generation while training.",
            )
        )
    dev_loss = [plots.Line(looks[c.name], c.dev_loss_nats) for c in logs if c.dev_loss_nats]
    if dev_loss:
        svg = plots.curves(
            "dev-loss", dev_loss, x_label="updates", y_label="nats", marked=True, window=1
        )
        charts.append(
            Chart(
                "Loss on dev",
                Markup(svg),
                "Loss on dev over updates. "
                + "; ".join(
                    f"{c.name}: {numbers.fixed(c.dev_loss_nats[-1][1], 2)} nats at the end"
                    for c in logs
                    if c.dev_loss_nats
                ),
                "Nats a token of the human targets; less is better.",
            )
        )
    loss = [plots.Line(looks[c.name], c.loss_nats) for c in logs if c.loss_nats]
    if loss:
        window = plots.smoothing(loss)
        charts.append(
            Chart(
                "Training loss",
                Markup(
                    plots.curves(
                        "loss", loss, x_label="updates", y_label="nats", marked=False, window=window
                    )
                ),
                "Training loss over updates. "
                + "; ".join(
                    f"{c.name}: {numbers.fixed(c.loss_nats[-1][1], 2)} nats at the end"
                    for c in logs
                    if c.loss_nats
                ),
                _loss_note(len(loss), window),
            )
        )
    return charts


def _loss_note(num_lines: int, window: int) -> str:
    sentences = ["The training objective in nats."]
    if num_lines > 1:
        sentences.append("Each method minimizes its own, so compare the shapes, not the heights.")
    if window > 1:
        sentences.append(f"Running mean of {window} points.")
    return " ".join(sentences)

"""Lays out the report: one HTML file that refers to nothing outside itself.

Brings together what `inputs` read, `findings` says and `plots` drew, and hands it to the template,
which escapes every text. Does not measure, choose or write sentences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory
from seqdistill.report import differences, findings, numbers, plots
from seqdistill.report.inputs import Curve, RunContents, System, read_contents

NUM_COLOURS = 6
"""--series-1 to --series-6 in style.css; --series-0 is the teacher's."""
TEACHER = plots.Look(0, "diamond")


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawn chart with what stands around it."""

    title: str
    svg: Markup
    description: str
    """Read aloud in place of the picture."""
    note: str


def build_report(run_directory: Path) -> str:
    """The report on a run or a comparison, as the text of one HTML page.

    Raises UserError when the folder is no run directory or a file in it is damaged.
    """
    contents = read_contents(run_directory)
    looks = _looks(contents)
    measured = (*contents.systems, *contents.copies)
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
        findings=findings,
        pieces=differences.pieces,
        best=findings.recommended(contents.systems),
        measured=measured,
        bleu_range=_bleu_range(measured),
        trade_offs=_trade_offs(measured, looks),
        learning=_learning(contents.curves, looks),
    )


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
    names += [curve.name for curve in contents.curves]
    names += [copy.name for copy in contents.copies]
    names += [name for sample in contents.samples for name in sample.outputs]
    markers = [marker for marker in plots.MARKERS if marker != TEACHER.marker]
    students = [name for name in dict.fromkeys(names) if name not in teachers]
    looks = dict.fromkeys(names, TEACHER)
    for position, name in enumerate(students):
        looks[name] = plots.Look(1 + position % NUM_COLOURS, markers[position % len(markers)])
    return looks


def _bleu_range(systems: Sequence[System]) -> tuple[float, float] | None:
    """The ends of the scale on which the table draws intervals."""
    values = [
        value
        for s in systems
        for value in (s.bleu_beam, s.bleu_beam_low, s.bleu_beam_high)
        if value is not None
    ]
    if not values:
        return None
    low, high = min(values), max(values)
    padding = 0.06 * (high - low) or 1.0
    return low - padding, high + padding


def _trade_offs(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[Chart]:
    """Quality against speed and against size: what a choice between the systems rests on."""
    if len(systems) < 2:  # one dot is no trade-off
        return []
    teacher = findings.teacher_of(systems)
    level = teacher.bleu_beam if teacher is not None else None
    charts = []
    speed = _speed_dots(systems, looks)
    if speed:
        charts.append(
            Chart(
                "Quality against speed",
                Markup(plots.scatter("speed", speed, x_label="words per second", level=level)),
                "BLEU over words per second. " + _spoken(systems, "words per second"),
                "Right is faster, up is better. A thin line joins one system’s greedy (hollow) and "
                "beam-search (filled) decoding.",
            )
        )
    size = _size_dots(systems, looks)
    if size:
        charts.append(
            Chart(
                "Quality against size",
                Markup(plots.scatter("size", size, x_label="size on disk, MB", level=level)),
                "BLEU over size on disk. " + _spoken(systems, "MB"),
                "Left is smaller, up is better. Systems of the same size stand side by side.",
            )
        )
    return charts


def _speed_dots(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[plots.Dot]:
    dots = []
    for s in systems:
        if s.bleu_greedy is not None and s.words_per_second_greedy:
            dots.append(
                plots.Dot(looks[s.name], s.words_per_second_greedy, s.bleu_greedy, filled=False)
            )
        if s.bleu_beam is not None and s.words_per_second_beam:
            dots.append(_beam_dot(s, looks, s.words_per_second_beam, s.bleu_beam))
    return dots


def _size_dots(systems: Sequence[System], looks: dict[str, plots.Look]) -> list[plots.Dot]:
    dots: list[plots.Dot] = []
    for s in systems:
        if s.bleu_beam is None or not s.size_bytes:
            continue
        megabytes = s.size_bytes / 1e6
        # Students often weigh the same to the byte: a few percent apart, all can be seen.
        while any(abs(megabytes / dot.x - 1.0) < 0.035 for dot in dots):
            megabytes *= 1.04
        dots.append(_beam_dot(s, looks, megabytes, s.bleu_beam))
    return dots


def _beam_dot(s: System, looks: dict[str, plots.Look], x: float, bleu: float) -> plots.Dot:
    return plots.Dot(
        looks[s.name], x, bleu, filled=True, low=s.bleu_beam_low, high=s.bleu_beam_high
    )


def _spoken(systems: Sequence[System], cost: str) -> str:
    def value(s: System) -> str:
        if cost == "MB":
            return numbers.size(s.size_bytes)
        return f"{numbers.rate(s.words_per_second_beam)} {cost}"

    return "; ".join(f"{s.name}: BLEU {numbers.fixed(s.bleu_beam)}, {value(s)}" for s in systems)


def _learning(curves: Sequence[Curve], looks: dict[str, plots.Look]) -> list[Chart]:
    """Dev BLEU and training loss over updates, for the runs that logged them."""
    charts = []
    dev = [plots.Line(looks[c.name], c.dev_bleu) for c in curves if c.dev_bleu]
    if dev:
        charts.append(
            Chart(
                "BLEU on dev",
                Markup(plots.curves("dev", dev, y_label="dev BLEU", marked=True, window=1)),
                "Dev BLEU over updates. "
                + "; ".join(
                    f"{c.name}: {numbers.fixed(c.dev_bleu[-1][1])} at the end"
                    for c in curves
                    if c.dev_bleu
                ),
                "Measured by generation while training.",
            )
        )
    loss = [plots.Line(looks[c.name], c.loss_nats) for c in curves if c.loss_nats]
    if loss:
        window = max(1, max(len(line.points) for line in loss) // 25)
        charts.append(
            Chart(
                "Training loss",
                Markup(plots.curves("loss", loss, y_label="nats", marked=False, window=window)),
                "Training loss over updates. "
                + "; ".join(
                    f"{c.name}: {numbers.fixed(c.loss_nats[-1][1], 2)} nats at the end"
                    for c in curves
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

"""Writes docs/results/followers.md: `python -m experiments.followers.page`.

Reads docs/results/followers.parquet alone and shows whatever rows exist. The prose is in
page.md.jinja, what is asked in claims.yaml: rows decide. Measures nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from experiments import plots
from experiments.estimates import (
    TEACHER,
    Estimate,
    Measure,
    Results,
    Shown,
    estimate,
    select,
)
from experiments.on_policy.page import START, Place, read
from experiments.pages import exits, write_paper
from experiments.shapes import read_tasks
from seqdistill.records.tables import Row

RESULTS = Path("docs/results/followers.parquet")
*SHOWN, SMALLEST_SHOWN = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])[
    "followers"
]
SMALLEST = "smallest"
"""The task and the experiment of the rows about how small a student may be."""
METHOD_NAMES = {
    "teacher": "Teacher",
    START: "Start",
    "all_tokens": "On-policy, reverse KL, all tokens",
    "tip_half": "TIP, ρ 0.5",
    "tip_fifth": "TIP, ρ 0.2",
    "tip_tenth": "TIP, ρ 0.1",
    "four_alike": "On-policy, forward KL, 4 samples a prompt",
    "paced": "PACED weights, 4 samples a prompt",
    "hard_filter": "Hard filter 0.2–0.8, 4 samples a prompt",
    "on_policy": "On-policy, forward KL",
    "near_policy": "Near-policy",
    "near_policy_unfiltered": "Near-policy without the filter",
    "share_none": "Supervised KD, λ 0",
    "share_half": "GKD forward KL, λ 0.5",
    "share_all": "On-policy, forward KL, λ 1",
    "share_measured": "λ and β by what is measured",
    "share_measured_forward": "λ by what is measured, forward KL",
}
WHAT = {
    "followers": "Which tokens and which sequences teach, on the prompts of the start, nearly all "
    "of which it solves by heart.",
    "frontier": "Which prompts teach: of 16,000 the start has seen an eighth, and it solves about "
    "half.",
    "mixtures": "GKD's share of the student's own sequences, fixed or chosen by what is measured; "
    "the rest are references of the prompts of the start.",
}
"""What the table of a task compares."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A system as it is stored: in fp32, in int8, or in int8 without its zeros."""

    row: Row
    measure: Measure
    arithmetic: str
    bytes: int
    smaller: float
    """How many times fewer bytes than the teacher in fp32."""

    @property
    def system(self) -> str:
        """`teacher`, `64×2+2`, `64×2+2, 50 % pruned`."""
        return str(self.row["method"]).replace("x", "×")

    @property
    def score(self) -> Estimate | None:
        """Decoded greedily."""
        return estimate((self.row,), self.measure.greedy)

    @property
    def over_teacher(self) -> Estimate | None:
        """By how much it is better than the teacher's beam search in fp32."""
        found = estimate((self.row,), f"{self.measure.greedy}_over_teacher")
        return found if found is None or self.measure.sign > 0 else found.negated()

    @property
    def quality(self) -> float:
        """Of which more is better."""
        return self.measure.sign * float(self.row[self.measure.greedy])


def forms_of(results: Results) -> list[Form]:
    """Every form that was measured, the largest first."""
    measure, rows = SMALLEST_SHOWN.measure, results.of(SMALLEST, SMALLEST)
    whole = {row["bytes"] for row in select(rows, method=TEACHER, compute_type="float32")}
    found = []
    for row in rows:
        arithmetic = "fp32" if row["compute_type"] == "float32" else str(row["compute_type"])
        sizes = {arithmetic: int(row["bytes"])}
        if "bytes_sparse" in row and row["bytes_sparse"] < 0.9 * row["bytes"]:
            sizes[f"{arithmetic}, without zeros"] = int(row["bytes_sparse"])
        found += [
            Form(row, measure, name, number, max(whole) / number) for name, number in sizes.items()
        ]
    return sorted(found, key=lambda form: -form.bytes)


def frontier(forms: Sequence[Form]) -> list[Form]:
    """Those that nothing as small is better than, the largest first."""
    best: list[Form] = []
    for form in sorted(forms, key=lambda form: (form.bytes, -form.quality)):
        if not best or form.quality > best[-1].quality:
            best.append(form)
    return best[::-1]


def knee(best: Sequence[Form]) -> Form:
    """The form of a frontier farthest above the line between its ends, bytes on a logarithmic
    scale and both axes from 0 to 1 (Satopää et al. 2011): beyond it each halving costs more."""
    sizes, scores = [math.log(form.bytes) for form in best], [form.quality for form in best]

    def above(place: int) -> float:
        size = (sizes[place] - sizes[-1]) / ((sizes[0] - sizes[-1]) or 1.0)
        return (scores[place] - scores[-1]) / ((scores[0] - scores[-1]) or 1.0) - size

    return best[max(range(len(best)), key=above)]


def bytes_picture(forms: Sequence[Form]) -> bytes:
    """Quality against bytes: every form, the frontier, and its knee."""
    with plots.plot(SMALLEST) as plot:
        axes, best = plot.axes[0], frontier(forms)
        for place, name in enumerate(dict.fromkeys(form.arithmetic for form in forms)):
            own = [form for form in forms if form.arithmetic == name]
            points = [(form.smaller, form.row[form.measure.greedy]) for form in own]
            axes.plot(
                *zip(*points, strict=True), label=name, **{**plots.look(place), "linestyle": ""}
            )
        line = [(form.smaller, form.row[form.measure.greedy]) for form in best]
        axes.plot(
            *zip(*line, strict=True), color="#222222", linewidth=0.9, label="best of its size"
        )
        named = knee(best)
        axes.annotate(
            f"knee: {named.system}, {named.arithmetic}",
            (named.smaller, named.row[named.measure.greedy]),
            textcoords="offset points",
            xytext=(0, 8),
            ha="center",
        )
        axes.set_xscale("log")
        ticks = [1, 2, 5, 10, 20, 50, 100, 200]
        axes.set_xticks(ticks, [f"{tick}×" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="times fewer bytes than the teacher in fp32")
        plots.quality(axes, named.measure)
        plots.legend(axes)
    return plot.image


def write_page(path: Path = RESULTS) -> None:
    """Writes the page beside the rows."""
    results = read(path)
    places, forms = [Place(results, shown, "") for shown in SHOWN], forms_of(results)
    places = [place for place in places if place.rows("main")]
    write_paper(
        path,
        Path(__file__).parent,
        results,
        {place.shown.title: place.figure for place in places},
        {SMALLEST: bytes_picture(forms)} if forms else {},
        {**globals(), "places": places, "forms": forms},
    )


if __name__ == "__main__":
    exits(write_page)

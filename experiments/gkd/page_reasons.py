"""What keeps claims from holding: figures that fail, beside those of other students and samples.

Source of the question: gains within a short budget may be gains of the speed of learning alone, so
may be those over a start that still learns, and greedy outputs may hide what distributions gained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from experiments.gkd.page_claims import CLAIMS, HOT, Claim
from experiments.gkd.page_rows import Students, later_students, longer_students
from experiments.harness.reasons import compared
from experiments.harness.text import NOT_MEASURED, table
from experiments.harness.verdicts import Part


def reasons(found: Sequence[Students]) -> str:
    """A line for each figure that fails its claim and each student to compare it with."""
    lines = [
        [str(number), students.shown.name, *cells]
        for number, claim in enumerate(CLAIMS, start=1)
        for students in found
        if students.shown.name in claim.tasks
        for cells in compared(claim.parts(students), _others(claim, students))
    ]
    if not lines:
        return "No figure fails that others could be held against." if found else NOT_MEASURED
    explanation = (
        "Every figure that fails its claim, beside the same figure of students that were trained "
        "for longer, of students that began at a later start and were trained as long, and of "
        f"samples at temperature {HOT} instead of greedy outputs. It is "
        "`nearer` to what the claim wants, or `farther` from it, where the two 95 % intervals lie "
        "apart."
    )
    headings = ["claim", "task", "figure", "is", "with", "is then", "which is"]
    return f"{explanation}\n\n{table(headings, lines, text_columns=len(headings))}"


def _others(claim: Claim, students: Students) -> Iterator[tuple[str, Sequence[Part]]]:
    yield "longer training", claim.parts(longer_students(students))
    if claim.later:
        yield "a later start", claim.parts(later_students(students))
    yield f"samples at T {HOT}", claim.parts(dataclasses.replace(students, temperature=HOT))

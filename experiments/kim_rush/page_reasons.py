"""What keeps claims from holding: figures that fail, beside those of other students."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.harness.reasons import compared
from experiments.harness.text import NOT_MEASURED, table
from experiments.kim_rush.page_cells import Students, students_of, varied_students_of
from experiments.kim_rush.page_claims import CLAIMS, Claim
from experiments.kim_rush.page_rows import TASKS, Results
from experiments.kim_rush.page_text import size_name, variant_name


def reasons(results: Results) -> str:
    """A line for each figure that fails its claim and each student to compare it with."""
    lines = [
        [str(number), *cells]
        for number, claim in enumerate(CLAIMS, start=1)
        for task in TASKS
        for students in students_of(results, task)
        for cells in _compared(claim, students)
    ]
    if not lines:
        measured = any(students_of(results, task) for task in TASKS)
        return "No claim fails." if measured else NOT_MEASURED
    explanation = (
        "Every figure that fails its claim, beside the same figure of a student of another size "
        "and of one that was trained longer. It is `nearer` to what the claim wants, or "
        "`farther` from it, where the two 95 % intervals lie apart."
    )
    headings = ["claim", "figure", "student", "is", "with", "is then", "which is"]
    return f"{explanation}\n\n{table(headings, lines, text_columns=len(headings))}"


def _compared(claim: Claim, students: Students) -> Iterator[list[str]]:
    place = f"{students.task.name} {size_name(students.size)}"
    others = ((name, claim.parts(other)) for name, other in _others(students))
    for label, figure, name, then, moved in compared(claim.parts(students), others):
        yield [label, place, figure, name, then, moved]


def _others(students: Students) -> Iterator[tuple[str, Students]]:
    """Students that differ in one thing, with what it is: larger ones (of the largest the next),
    and those that were trained otherwise.
    """
    by_size = students_of(students.results, students.task)
    place = [other.size for other in by_size].index(students.size)
    for other in by_size[:place] or by_size[1:2]:
        yield size_name(other.size), other
    for other in varied_students_of(students.results, students.task):
        if other.size == students.size and other.variant is not None:
            yield variant_name(other.variant), other

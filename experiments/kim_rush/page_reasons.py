"""What keeps claims from holding: figures that fail, beside those of other students.

A figure moves nearer to its rule or farther from it only where the two intervals lie apart. Asks
no more of a student than its claim does.
"""

from __future__ import annotations

from collections.abc import Iterator

from experiments.harness.text import NOT_MEASURED, table
from experiments.harness.verdicts import Part, Verdict
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
    for part in claim.parts(students):
        if part.verdict is not Verdict.FAILS:
            continue
        place = f"{students.task.name} {size_name(students.size)}"
        for name, other in _others(students):
            then = {found.label: found for found in claim.parts(other)}.get(part.label)
            if then is not None and then.verdict is not Verdict.MISSING and then != part:
                yield [part.label, place, part.figure, name, then.figure, _moved(part, then)]


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


def _moved(part: Part, then: Part) -> str:
    if then.verdict is Verdict.HOLDS:
        return "enough"
    first, second = _interval(part), _interval(then)
    if first is None or second is None or (first[0] <= second[1] and second[0] <= first[1]):
        return "not told apart"
    return "nearer" if _missing(then) < _missing(part) else "farther"


def _interval(part: Part) -> tuple[float, float] | None:
    found = part.estimate
    if found is None or found.low is None or found.high is None:
        return None
    return found.low, found.high


def _missing(part: Part) -> float:
    """How far the estimate lies outside of what is wanted."""
    if part.estimate is None or part.wanted is None:
        raise ValueError(f"{part.label!r} needs an estimate and ends that it should lie between")
    low, high = part.wanted
    return max(low - part.estimate.value, part.estimate.value - high, 0.0)

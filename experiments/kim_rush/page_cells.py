"""The tables' cells as claims and findings ask for them: students of one size, their teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from experiments.harness.estimates import Quantity, estimate, gain
from experiments.harness.reading import TEACHER, Row, Runs, grouped, number
from experiments.harness.statistics import Estimate
from experiments.kim_rush.page_rows import (
    Results,
    Task,
    methods_among,
    plain,
    runs_of,
    student_sizes,
)


@dataclasses.dataclass(frozen=True)
class Students:
    """All systems of one task and one student size, with that task's teacher."""

    results: Results
    task: Task
    size: str
    variant: str | None = None
    """Of follow-up experiments; None for the students of the main table."""

    @property
    def main(self) -> tuple[Row, ...]:
        """The rows of the main table."""
        return self.results.of(self.task, "main")

    @property
    def trained(self) -> tuple[Row, ...]:
        """The rows of these students, none of them pruned, and in the main table the teacher's."""
        if self.variant is None:
            return self.main
        return tuple(row for row in self._varied() if number(row, "pruned_share") is None)

    @property
    def pruned(self) -> tuple[Row, ...]:
        """The rows of these students with a share of their weights pruned."""
        rows = self.results.of(self.task, "pruning") if self.variant is None else self._varied()
        return tuple(r for r in rows if r.get("size") == self.size and number(r, "pruned_share"))

    def _varied(self) -> Iterator[Row]:
        rows = self.results.of(self.task, "follow_up")
        return (row for row in rows if row.get("variant") == self.variant)

    def student(self, method: str) -> Runs:
        """The runs of the student trained by `method`."""
        return runs_of(self.trained, self.size, method)

    def teacher(self, method: str = TEACHER) -> Runs:
        """The runs of the teacher, or of the teacher after further stages."""
        return runs_of(self.main, TEACHER, method)

    @property
    def methods(self) -> list[str]:
        """The methods by which students of this size were trained."""
        return methods_among([row for row in plain(self.trained) if row.get("size") == self.size])

    def score(self, method: str, key: str) -> Estimate | None:
        """The student's number under `key`."""
        return estimate(Quantity(self.student(method), key))

    def gain(self, method: str, base: str, key: str) -> Estimate | None:
        """By how much one method is better than another; positive is better."""
        sign = self.task.measure.sign
        return gain(self.student(method), self.student(base), key, sign=sign)

    def best(self, key: str) -> str | None:
        """The method with the best mean under `key`; the earlier in the table on equal means."""
        scores = {
            method: self.task.measure.sign * found.value
            for method in self.methods
            if (found := self.score(method, key)) is not None
        }
        return max(scores, key=lambda method: scores[method], default=None)


def students_of(results: Results, task: Task) -> list[Students]:
    """The students of the main table, one for each size, the largest first."""
    sizes = student_sizes(results.of(task, "main"))
    return [Students(results, task, size) for size in sizes]


def varied_students_of(results: Results, task: Task) -> list[Students]:
    """The students of the follow-ups, one for each size and variant."""
    rows = [row for row in results.of(task, "follow_up") if row.get("variant") is not None]
    return [
        Students(results, task, str(size), str(variant))
        for size, variant in grouped(rows, "size", "variant")
    ]

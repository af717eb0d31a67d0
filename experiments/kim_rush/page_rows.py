"""The rows of the experiment as the page reads them: tasks, measures, runs that belong together.

Reads kim_rush.json and selects. Averages nothing and writes nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.reading import (
    TEACHER,
    Measure,
    Row,
    Runs,
    facts_of,
    in_order,
    number,
    read_document,
)

FLOAT32 = "ctranslate2 float32"
INT8 = "ctranslate2 int8"

METHODS = (
    "teacher",
    "teacher+seq_inter",
    "baseline",
    "word_kd",
    "seq_kd",
    "baseline+seq_inter",
    "word_kd+seq_inter",
    "seq_kd+seq_inter",
    "seq_kd+word_kd",
    "seq_kd+word_kd+seq_inter",
)
"""The rows of the paper's table 1, in its order."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One of the two tasks: what it is called and how it is scored."""

    name: str
    title: str
    measure: Measure
    further: tuple[tuple[str, str], ...]
    """Further columns of the main table: (heading, key)."""
    dev: tuple[Measure, ...]
    """Scores that may have chosen a learning rate on dev, with the keys of their rows."""

    @property
    def file_stem(self) -> str:
        """The task's name as part of a file name."""
        return self.name.replace("-", "_")


TASKS = (
    Task(
        "g2p",
        "g2p: English spelling to phonemes",
        Measure("sequence_error_rate", "WER", -1),
        (("PER greedy", "token_error_rate_greedy"), ("PER beam", "token_error_rate_beam")),
        (
            Measure("dev_token_error_rate", "PER", -1),
            Measure("dev_sequence_error_rate", "WER", -1),
        ),
    ),
    Task(
        "en-de",
        "en-de: software documentation, English to German",
        Measure("bleu", "BLEU", 1),
        (("chrF greedy", "chrf_greedy"), ("chrF beam", "chrf_beam")),
        (Measure("dev_chrf", "chrF", 1),),
    ),
)


@dataclasses.dataclass(frozen=True)
class Results:
    """kim_rush.json: its rows, and what it says of the tasks, the machine and the versions."""

    rows: tuple[Row, ...]
    created: str
    tasks: Mapping[str, Mapping[str, Any]]
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]

    def of(self, task: Task, experiment: str) -> tuple[Row, ...]:
        """The rows of one experiment on one task."""
        return tuple(
            row
            for row in self.rows
            if row.get("task") == task.name and row.get("experiment") == experiment
        )

    def curve(self, task: Task, experiment: str) -> tuple[Row, ...]:
        """The rows of a curve, with those of the main table that lie on it.

        These are of a method of the curve, and for the curve over training of a size of it, too.
        """
        own = self.of(task, experiment)
        methods = {row.get("method") for row in own}
        sizes = {row.get("size") for row in own}
        shared = tuple(
            row
            for row in self.of(task, "main")
            if row.get("method") in methods
            and (experiment != "length_curve" or row.get("size") in sizes)
        )
        return (*own, *shared)


def read(path: Path) -> Results:
    """The results in the file. Raises DataError when it is none, or tells one cell twice."""
    return results_of(read_document(path))


def results_of(document: Mapping[str, Any]) -> Results:
    """The results in a document that was read, whose rows may come in any order."""
    facts = facts_of(document)
    return Results(
        rows=in_order(document["rows"], _identity),
        created=facts.created,
        tasks=facts.tasks,
        machine=facts.machine,
        versions=facts.versions,
    )


def _identity(row: Row) -> str:
    keys = (
        *("task", "experiment", "question", "variant", "size", "method", "engine"),
        *("pruned_share", "learning_rate", "updates", "seed"),
    )
    return ", ".join(f"{key} {row[key]}" for key in keys if row.get(key) is not None)


def plain(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows measured in float32, which is also what a row means that names no engine."""
    return tuple(row for row in rows if row.get("engine", FLOAT32) == FLOAT32)


def runs_of(rows: Iterable[Row], size: str, method: str) -> Runs:
    """One system's float32 runs among `rows`."""
    return tuple(
        row for row in plain(rows) if row.get("size") == size and row.get("method") == method
    )


def student_sizes(rows: Sequence[Row]) -> list[str]:
    """The sizes of students among the rows, the largest first: by parameters, then by name."""
    sizes: dict[str, tuple[float, tuple[int, ...]]] = {}
    for row in rows:
        size = str(row.get("size", TEACHER))
        if size != TEACHER:
            found = (number(row, "parameters") or 0.0, _numbers_in(size))
            sizes[size] = max(found, sizes.get(size, found))
    return sorted(sizes, key=lambda size: (sizes[size], size), reverse=True)


def _numbers_in(size: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", size))


def methods_among(rows: Sequence[Row]) -> list[str]:
    """The methods of the rows: the paper's in its order, then others by name."""
    found = {str(row["method"]) for row in rows if row.get("method")}
    return [m for m in METHODS if m in found] + sorted(found - set(METHODS))

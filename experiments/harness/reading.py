"""An experiment's results as its page reads them: the file, its rows, what is under their keys.

Averages nothing and writes nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqdistill.core.errors import DataError

Row = Mapping[str, Any]
Runs = tuple[Row, ...]
"""Rows that differ in the seed alone: one system, trained several times."""

TEACHER = "teacher"
"""The method, and in some experiments the size, of a teacher's rows."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """The quality measure of a task; `sign` is +1 where more is better and -1 where less is."""

    key: str
    name: str
    sign: int

    @property
    def greedy(self) -> str:
        """The key of the score under greedy decoding."""
        return f"{self.key}_greedy"

    @property
    def beam(self) -> str:
        """The key of the score under beam search."""
        return f"{self.key}_beam"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a results file says besides its rows."""

    created: str
    tasks: Mapping[str, Mapping[str, Any]]
    machine: Mapping[str, Any]
    versions: Mapping[str, Any]


def read_document(path: Path) -> Mapping[str, Any]:
    """The object in the file, with a list under `rows`. Raises DataError when there is none."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} must hold the experiment's rows as JSON, but {error}; run the experiment first"
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise DataError(f"{path} must hold an object with a list 'rows'; run the experiment again")
    return document


def facts_of(document: Mapping[str, Any]) -> Facts:
    """What the document says of its tasks, the machine and the versions; empty where nothing."""
    facts = document.get("environment", document)
    return Facts(
        created=str(document.get("created", "")),
        tasks=document.get("tasks") or {},
        machine=facts.get("machine") or {},
        versions=facts.get("versions") or {},
    )


def in_order(rows: Sequence[Row], identity: Callable[[Row], str]) -> tuple[Row, ...]:
    """The rows in the order of their identities. Raises DataError when two have the same."""
    ordered = sorted(rows, key=identity)
    for row, following in itertools.pairwise(ordered):
        if identity(row) == identity(following):
            raise DataError(
                f"every cell must stand once in the rows, but this one stands twice: "
                f"{identity(row)}; remove the stale row"
            )
    return tuple(ordered)


def number(row: Row, key: str) -> float | None:
    """The finite number under `key`; None when there is none."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def distinct(rows: Iterable[Row], key: str) -> list[float]:
    """The different numbers under `key`, in increasing order."""
    found = {value for row in rows if (value := number(row, key)) is not None}
    return sorted(found)


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], Runs]:
    """The rows by their values of `keys`, in the order in which the values first appear."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return {key: tuple(group) for key, group in groups.items()}

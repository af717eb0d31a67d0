"""What `doctor` finds, as data, and what it looks at: models without weights, and rows."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping
from typing import Literal

from seqdistill.data.dataset import EncodedDataset
from seqdistill.data.examples import ExampleTable
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.schema import Recipe

Level = Literal["ok", "note", "warning", "error"]
"""An `error` would stop the run; a `warning` would spoil or slow it."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that was looked at."""

    subject: str
    level: Level
    found: str
    happens: str = ""
    """What would come of it."""
    change: str = ""
    """What to do about it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """What is examined: models without weights, and rows."""

    recipe: Recipe
    teachers: tuple[LoadedModel, ...]
    student: LoadedModel | None
    rows: Mapping[str, ExampleTable]
    """What could be read of train, dev and test."""
    encoded: EncodedDataset | None
    """Rows of train as the student reads and learns them, however long; None where that cannot be
    known yet."""

    @property
    def train(self) -> ExampleTable:
        """The rows of train; none where they cannot be read."""
        return self.rows.get("train", ExampleTable.of([]))

    @property
    def pairs(self) -> dict[str, LoadedModel]:
        """The models by their roles."""
        found = {f"teacher {pair.name}": pair for pair in self.teachers}
        if len(found) == 1:
            found = {"teacher": self.teachers[0]}
        return found if self.student is None else {**found, "student": self.student}


@contextlib.contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Keeps the package's warnings from the screen, and collects them."""
    said: list[str] = []
    logger, handler = logging.getLogger("seqdistill"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before

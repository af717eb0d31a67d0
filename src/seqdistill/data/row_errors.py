"""What is wrong with a data file, in one error: the first few errors and how many there are."""

from __future__ import annotations

from typing import Literal

from seqdistill.core.errors import DataError

NUM_SHOWN = 5
Unit = Literal["line", "row"]
"""Text files have lines, tables have rows; both are counted from 1."""


class RowError(Exception):
    """The sentence about one row; becomes one line of a DataError."""


class RowErrors:
    """Collects the unusable lines or rows of one file, to be reported together."""

    def __init__(self, file: str, unit: Unit) -> None:
        self._file = file
        self._unit = unit
        self._shown: list[str] = []
        self.num_errors = 0

    def place(self, number: int) -> str:
        """The place as a person would look it up: `file:7` or `file, row 7`."""
        if self._unit == "line":
            return f"{self._file}:{number}"
        return f"{self._file}, row {number}"

    def add(self, number: int, sentence: object) -> None:
        """Notes that line or row `number` breaks what `sentence` says."""
        self.num_errors += 1
        if len(self._shown) < NUM_SHOWN:
            self._shown.append(f"{self.place(number)}: {sentence}")

    def raise_if_any(self, num_checked: int) -> None:
        """Raises DataError when anything was added; `num_checked` is how many were looked at."""
        if not self.num_errors:
            return
        lines = [
            f"{self._file}: {self.num_errors:,} of {num_checked:,} {self._unit}s "
            "cannot be used; fix or remove them:",
            *(f"  {shown}" for shown in self._shown),
        ]
        if self.num_errors > len(self._shown):
            lines.append(f"  and {self.num_errors - len(self._shown):,} more")
        raise DataError("\n".join(lines))

"""Two text files whose lines belong together, and single text files of sources."""

from __future__ import annotations

from pathlib import Path

from seqdistill.core.errors import DataError
from seqdistill.data.examples import Example
from seqdistill.data.row_errors import Offences, text_offence
from seqdistill.data.text_lines import read_text_lines


def read_line_aligned(source_path: Path, target_path: Path) -> list[Example]:
    """One example a line; ids count the lines from 1.

    Raises DataError when the files have different numbers of lines, and for empty lines.
    """
    sources = read_text_lines(source_path)
    targets = read_text_lines(target_path)
    if len(sources) != len(targets):
        raise DataError(
            f"line-aligned files must have equally many lines, found {len(sources):,} in "
            f"{source_path} and {len(targets):,} in {target_path}; line "
            f"{min(len(sources), len(targets)) + 1:,} of the longer one has no partner, and the "
            "line that is missing may stand earlier"
        )
    _check_lines(source_path, sources, "source")
    _check_lines(target_path, targets, "target")
    return [
        Example(str(number), source, target)
        for number, (source, target) in enumerate(zip(sources, targets, strict=True), start=1)
    ]


def read_sources(path: Path) -> list[Example]:
    """One example without a target a line; ids count the lines from 1."""
    sources = read_text_lines(path)
    _check_lines(path, sources, "source")
    return [Example(str(number), source, None) for number, source in enumerate(sources, start=1)]


def _check_lines(path: Path, lines: list[str], side: str) -> None:
    row_errors = Offences(str(path), "line")
    for number, line in enumerate(lines, start=1):
        offence = text_offence(side, line)
        if offence is not None:
            row_errors.add(number, offence)
    row_errors.raise_if_any(len(lines))

"""Tab-separated files of two columns: no quoting, no escapes, a header only if it names columns."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from seqdistill.core.errors import DataError
from seqdistill.data.columns import PAIRS, ColumnChoice, named_pair
from seqdistill.data.examples import Example
from seqdistill.data.row_errors import Offences, text_offence
from seqdistill.data.text_lines import read_text_lines

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z][\w.-]{0,30}")


def read_tsv(path: Path, choice: ColumnChoice) -> list[Example]:
    """One example a line; ids count the lines from 1, a header apart.

    The first line is a header when its cells are a known pair of column names, or when the user
    names columns, which must then be among them. Where no target is needed a line may hold the
    source alone. Raises DataError for any other number of columns and for empty sides.
    """
    lines = read_text_lines(path)
    source_index, num_header_lines = _header(path, lines[0].split("\t"), choice)
    if len(lines) == num_header_lines:
        raise DataError(f"{path} must hold examples below its header, but it ends there")
    if num_header_lines == 0 and _looks_like_header(lines):
        _LOG.warning(
            "%s: the first line, %r, is read as an example; if it is a header, name its columns "
            "with data.source_column and data.target_column",
            path,
            lines[0],
        )
    row_errors = Offences(str(path), "line")
    examples: list[Example] = []
    for number, line in enumerate(lines[num_header_lines:], start=1):
        cells = line.split("\t")
        offence = _offence(cells, source_index, choice)
        if offence is not None:
            row_errors.add(number + num_header_lines, offence)
            continue
        source = cells[source_index if len(cells) == 2 else 0]
        target = cells[1 - source_index] if len(cells) == 2 else ""
        examples.append(Example(str(number), source, target or None))
    row_errors.raise_if_any(len(lines))
    return examples


def _looks_like_header(lines: list[str]) -> bool:
    """Whether a line of single words stands above lines of several."""
    single = all(_NAME.fullmatch(cell) for cell in lines[0].split("\t"))
    return single and any(" " in line for line in lines[1:])


def _header(path: Path, cells: list[str], choice: ColumnChoice) -> tuple[int, int]:
    """The column of the source (0 or 1), and how many header lines there are (0 or 1)."""
    try:
        pair = named_pair(cells, choice)
    except DataError as error:
        raise DataError(f"{path}:1: the header's {error}") from error
    if pair is not None and len(cells) <= 2:
        return cells.index(pair[0]), 1
    lone_source = len(cells) == 1 and cells[0] in {source for source, _ in PAIRS}
    return 0, int(lone_source and not choice.need_target)


def _offence(cells: list[str], source_index: int, choice: ColumnChoice) -> str | None:
    if len(cells) == 1 and not choice.need_target:
        return text_offence("source", cells[0])
    if len(cells) != 2:
        return f"must hold exactly two columns with a tab between them, found {len(cells)}"
    offence = text_offence("source", cells[source_index])
    target = cells[1 - source_index]
    if offence is None and (choice.need_target or target):
        offence = text_offence("target", target)
    return offence

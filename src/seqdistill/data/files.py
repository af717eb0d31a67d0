"""Files as rows, read one after another: TSV, JSON lines, line-aligned text, Parquet.

Text is UTF-8, LF or CRLF, a byte-order mark allowed, .gz unpacked. Only LF ends a line: a U+2028, a
form feed or a lone CR inside a sentence stays where it is. (So the lines are split here: readers of
`datasets` split at all of them, and name no line of a mistake.) What rows mean is left to `rows`.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.data.columns import (
    PAIRS,
    TRANSLATION,
    ColumnChoice,
    Layout,
    find_layout,
    named_pair,
)
from seqdistill.data.row_errors import RowError, RowErrors
from seqdistill.data.rows import Row, Rows, unreadable

_LOG = logging.getLogger(__name__)
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,30}")
_SIDES = Layout("source", "target", has_id=False)
_ROWS_READ = 1024
"""Rows of a table that are read at a time."""


def lines_of(path: Path) -> Iterator[str | RowError]:
    """The lines of a file without their line ends; a line end after the last line adds none.

    A line that is not UTF-8 is a RowError, with its offset. Raises DataError when the file is
    empty, cannot be read, or is no whole gzip file.
    """
    offset, packed = 0, path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed and path.stat().st_size else open(path, "rb") as stream:
            for content in stream:
                line = content
                if not offset:
                    if content.startswith(_UTF16_MARKS):
                        raise DataError(
                            f"{path} must be UTF-8, but it begins like UTF-16; convert it, for "
                            "example with iconv -f UTF-16 -t UTF-8"
                        )
                    line = content.removeprefix(_UTF8_MARK)
                try:
                    if line:
                        yield line.decode("utf-8").removesuffix("\n").removesuffix("\r")
                except UnicodeDecodeError as error:
                    start = error.start + len(content) - len(line)
                    yield RowError(
                        f"text must be UTF-8, found byte 0x{content[start]:02x} at offset "
                        f"{offset + start} of the file ({start} of the line)"
                    )
                offset += len(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} must be a whole gzip file, found: {error}; pack it again, or rename it "
            "if it is not packed"
        ) from error
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error.strerror or error}") from error
    if offset <= len(_UTF8_MARK) and (not offset or not line):
        raise DataError(f"{path} must hold examples, but it is empty; give another file")


def jsonl_rows(path: Path, choice: ColumnChoice) -> Rows:
    """One row a line. The file is read twice: which columns there are must be known first."""
    names: dict[str, None] = {}
    errors, number, first = RowErrors(str(path), "line"), 0, None
    for number, row in enumerate(_objects(path), start=1):
        if isinstance(row, RowError):
            errors.add(number, row)
            continue
        names |= dict.fromkeys(row)
        first = row if first is None else first
    errors.raise_if_any(number)
    first_translation = (first or {}).get(TRANSLATION)
    layout = find_layout(list(names), choice, file=str(path), first_translation=first_translation)
    return Rows(str(path), "line", layout, _objects(path))


def _objects(path: Path) -> Iterator[Row | RowError]:
    for line in lines_of(path):
        try:
            row = line if isinstance(line, RowError) else json.loads(line)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}" if str(line).strip() else "an empty line"
            row = RowError(f"must be a JSON object, found {found}")
        except (ValueError, RecursionError) as error:  # endless digits, endless brackets
            found = "too many nested brackets" if isinstance(error, RecursionError) else str(error)
            row = RowError(f"must be a JSON object that Python can read, found: {found}")
        if not isinstance(row, dict | RowError):
            row = RowError(f"must be a JSON object, found {type(row).__name__}")
        yield row


def tsv_rows(path: Path, choice: ColumnChoice) -> Rows:
    """Tab-separated lines: no quoting, no escapes.

    The first line is a header when a known pair of column names is among its cells, or when the
    user names columns, which must then be among them; it may name further columns. Without one
    there are two columns. Where no target is needed a line may hold the source alone.
    """
    first = next(lines_of(path))
    header = "" if isinstance(first, RowError) else first
    source, num_header_lines = _header(path, header, choice)
    names = header.split("\t")
    if num_header_lines and len(names) > 2:
        layout = find_layout(names, choice, file=str(path), first_translation=None)
        rows = _named_cells(path, names, layout.extras)
        return Rows(str(path), "line", layout, rows, num_header_lines)
    choice.check_no_extras(path)
    cells = _cells(path, source, num_header_lines, need_target=choice.need_target)
    return Rows(str(path), "line", _SIDES, cells, num_header_lines)


def _named_cells(path: Path, names: list[str], numbers: Iterable[str]) -> Iterator[Row | RowError]:
    """The lines below a header, by its names; `numbers` are the columns that hold such."""
    for line in islice(lines_of(path), 1, None):
        cells = [] if isinstance(line, RowError) else line.split("\t")
        if isinstance(line, RowError):
            yield line
        elif len(cells) != len(names):
            yield RowError(
                f"must hold {len(names)} columns, as the header does, found {len(cells)}"
            )
        else:
            row: dict[str, object] = dict(zip(names, cells, strict=True))
            for name in numbers:
                with contextlib.suppress(ValueError):
                    row[name] = float(str(row[name]))
            yield row


def _cells(
    path: Path, source: int, num_header_lines: int, *, need_target: bool
) -> Iterator[Row | RowError]:
    number, first, has_sentences = 0, "", False
    for number, line in enumerate(lines_of(path), start=1):
        if number <= num_header_lines:
            continue
        if isinstance(line, RowError):
            yield line
            continue
        first = first or line
        has_sentences |= number > 1 and " " in line
        cells = line.split("\t")
        if len(cells) == 2:
            yield {"source": cells[source], "target": cells[1 - source]}
        elif len(cells) == 1 and not need_target:
            yield {"source": cells[0]}
        else:
            found = f"found {len(cells)}"
            yield RowError(f"must hold exactly two columns with a tab between them, {found}")
    if number == num_header_lines:
        raise DataError(f"{path} must hold examples below its header, but it ends there")
    # A line of single words above lines of several.
    if not num_header_lines and has_sentences and all(map(_NAME.fullmatch, first.split("\t"))):
        _LOG.warning(
            "%s: the first line, %r, is read as an example; if it is a header, name its columns "
            "with data.source_column and data.target_column",
            path,
            first,
        )


def _header(path: Path, line: str, choice: ColumnChoice) -> tuple[int, int]:
    """The column of the source (0 or 1), and how many header lines there are (0 or 1)."""
    cells = line.split("\t")
    try:
        pair = named_pair(cells, choice)
    except DataError as error:
        raise DataError(f"{path}:1: the header's {error}") from error
    if pair is not None:
        return cells.index(pair[0]), 1
    lone_source = len(cells) == 1 and cells[0] in {source for source, _ in PAIRS}
    return 0, int(lone_source and not choice.need_target)


def aligned_rows(source: Path, target: Path) -> Rows:
    """Two text files whose lines belong together.

    Raises DataError when they have different numbers of lines.
    """
    layout = Layout(str(source), str(target), has_id=False)  # so that errors name the file
    return Rows(f"{source},{target}", "line", layout, _aligned(source, target))


def _aligned(source: Path, target: Path) -> Iterator[Row | RowError]:
    counts = [0, 0]
    for pair in zip_longest(lines_of(source), lines_of(target)):
        counts = [count + (line is not None) for count, line in zip(counts, pair, strict=True)]
        if counts[0] != counts[1]:
            continue
        row = dict(zip((str(source), str(target)), pair, strict=True))
        wrong = [f"{path}: {line}" for path, line in row.items() if isinstance(line, RowError)]
        yield RowError(wrong[0]) if wrong else row
    if counts[0] != counts[1]:
        raise DataError(
            f"line-aligned files must have equally many lines, found {counts[0]:,} in "
            f"{source} and {counts[1]:,} in {target}; line {min(counts) + 1:,} of the longer one "
            "has no partner, and the line that is missing may stand earlier"
        )


def source_rows(path: Path) -> Rows:
    """One source without a target a line."""
    rows = (line if isinstance(line, RowError) else {"source": line} for line in lines_of(path))
    return Rows(str(path), "line", _SIDES, rows)


def parquet_rows(path: Path, choice: ColumnChoice) -> Rows:
    """One row a row; only the columns of the layout are read.

    Raises DataError when the file is no whole Parquet file.
    """
    try:
        file = pq.ParquetFile(path)
        names = [str(name) for name in file.schema_arrow.names]
        first: Any = None
        if TRANSLATION in names and file.metadata.num_rows:
            head = next(file.iter_batches(batch_size=1, columns=[TRANSLATION]))
            first = head.column(0)[0].as_py()
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from error
    layout = find_layout(names, choice, file=str(path), first_translation=first)

    def batches() -> Iterator[Any]:
        try:
            for batch in file.iter_batches(batch_size=_ROWS_READ, columns=layout.columns):
                batch.validate(full=True)  # Parquet does not promise that its strings are UTF-8
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise _no_parquet(path, error) from error

    return Rows(str(path), "row", layout, rows_of_batches(batches(), file=str(path)))


def _no_parquet(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must be a whole Parquet file with UTF-8 text, found: {error}; write it again"
    )


def rows_of_batches(batches: Iterable[Any], *, file: str) -> Iterator[Row]:
    """The rows of Arrow batches or tables, without their nulls.

    In a table all turns of conversations have the keys that any of them has.
    """
    for batch in batches:
        try:
            yield from map(_without_nulls, batch.to_pylist())
        except (ValueError, OverflowError) as error:  # a date beyond the year 9999
            raise DataError(f"{file}: {unreadable(error)}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value

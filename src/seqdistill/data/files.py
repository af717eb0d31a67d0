"""Files as rows, read one after another: TSV, JSON lines, line-aligned text, Parquet.

Text is UTF-8, LF or CRLF, a byte-order mark allowed, .gz unpacked. Only LF ends a line: readers of
`datasets` split at U+2028, form feeds and lone CRs, too, and name no line of a mistake.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.data.columns import (
    PAIRS,
    ColumnChoice,
    Layout,
    check_no_extras,
    find_layout,
    named_pair,
)
from seqdistill.data.rows import Row, RowError, Rows, no_json

_LOG = logging.getLogger(__name__)
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What `surrogateescape` makes of bytes that are no UTF-8."""
_UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")
_NAME = re.compile(r"[A-Za-z][\w.-]{0,30}")
_SIDES = Layout("source", "target", has_id=False)
ROWS_READ = 1024
"""Rows of a table that are read at a time."""


def lines_of(path: Path) -> Iterator[str | RowError]:
    """The lines of a file without their line ends; a line end after the last line adds none.

    A line that is not UTF-8 is a RowError. Raises DataError when the file is empty, cannot be
    read, or is no whole gzip file.
    """
    number = 0
    opened: Any = gzip.open if path.suffix.lower() == ".gz" else open
    text = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": "\n"}
    try:
        with opened(path, "rt", **text) as stream:
            for number, line in enumerate(stream, start=1):
                if number == 1 and line.startswith(_UTF16_MARKS):
                    raise DataError(
                        f"{path} must be UTF-8, but it begins like UTF-16; convert it, for "
                        "example with iconv -f UTF-16 -t UTF-8"
                    )
                wrong = _UNDECODED.search(line)
                if wrong is None:
                    yield line.removesuffix("\n").removesuffix("\r")
                else:
                    byte = ord(wrong[0]) - 0xDC00
                    found = f"byte 0x{byte:02x} after {wrong.start()} characters of the line"
                    yield RowError(f"text must be UTF-8, found {found}")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} must be a whole gzip file, found: {error}; pack it again, or rename it "
            "if it is not packed"
        ) from error
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error.strerror or error}") from error
    if not number:
        raise DataError(f"{path} must hold examples, but it is empty; give another file")


def jsonl_rows(path: Path, choice: ColumnChoice) -> Rows:
    """One row a line. The file is read twice: which columns there are must be known first."""
    names: dict[str, None] = {}
    for row in _objects(path):
        if not isinstance(row, RowError):
            names |= dict.fromkeys(row)
    # Without names every line is wrong, and the second reading says how.
    layout = find_layout(list(names), choice, file=str(path)) if names else _SIDES
    return Rows(str(path), "line", layout, _objects(path))


class _TwinKey(Exception):
    pass


def _without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwinKey(next(name for name in row if names.count(name) > 1))
    return row


def _objects(path: Path) -> Iterator[Row | RowError]:
    for line in lines_of(path):
        try:
            row = (
                line
                if isinstance(line, RowError)
                else json.loads(line, object_pairs_hook=_without_twins)
            )
        except _TwinKey as error:
            row = RowError(f"must give each key once, found {error.args[0]!r} twice")
        except (ValueError, RecursionError) as error:
            found = no_json(error) if str(line).strip() else "an empty line"
            row = RowError(f"must be a JSON object, found {found}")
        if not isinstance(row, dict | RowError):
            row = RowError(f"must be a JSON object, found {type(row).__name__}")
        yield row


def tsv_rows(path: Path, choice: ColumnChoice) -> Rows:
    """Tab-separated lines: no quoting, no escapes.

    The first line is a header when a known pair of column names is among its cells, or when the
    user names columns, which must then be among them; it may name further columns. Without one
    there are two columns. Where no target is needed a line may hold the source alone.
    """
    lines = lines_of(path)
    first = next(lines)
    names, layout = ["source", "target"], _SIDES
    has_header = not isinstance(first, RowError) and _is_header(path, first.split("\t"), choice)
    if has_header:
        names = str(first).split("\t")
        layout = find_layout(names, choice, file=str(path))
    else:
        check_no_extras(path, choice)
        second = next(lines, None)
        _warn_of_header(path, first, second)
        lines = chain([first] if second is None else [first, second], lines)
    rows = (_cells(line, names, layout, choice) for line in lines)
    return Rows(str(path), "line", layout, rows, num_header_lines=has_header)


def _cells(
    line: str | RowError, names: list[str], layout: Layout, choice: ColumnChoice
) -> Row | RowError:
    if isinstance(line, RowError):
        return line
    cells = line.split("\t")
    if len(cells) == 1 and len(names) == 2 and choice.targets != "needed":
        return {layout.source: cells[0]}
    if len(cells) != len(names):
        wanted = f"{len(names)} columns with tabs between them"
        return RowError(f"must hold exactly {wanted}, found {len(cells)}")
    row: dict[str, object] = dict(zip(names, cells, strict=True))
    for name in layout.choice.extra_columns:
        with contextlib.suppress(ValueError):
            row[name] = float(str(row[name]))
    return row


def _is_header(path: Path, cells: list[str], choice: ColumnChoice) -> bool:
    try:
        pair = named_pair(cells, choice)
    except DataError as error:
        raise DataError(f"{path}:1: the header's {error}") from error
    is_lone_source = len(cells) == 1 and cells[0] in dict(PAIRS)
    return pair is not None or (is_lone_source and choice.targets != "needed")


def _warn_of_header(path: Path, first: str | RowError, second: str | RowError | None) -> None:
    """Warns of a line of names above one of several words."""
    if isinstance(first, RowError) or " " not in str(second):
        return
    if all(map(_NAME.fullmatch, first.split("\t"))):
        _LOG.warning(
            "%s: the first line, %r, is read as an example; if it is a header, name its columns "
            "with data.source_column and data.target_column",
            path,
            first,
        )


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
    with _parquet_errors(path):
        file = pq.ParquetFile(path)
    names = [str(name) for name in file.schema_arrow.names]
    layout = find_layout(names, choice, file=str(path))

    def batches() -> Iterator[Any]:
        with _parquet_errors(path):
            for batch in file.iter_batches(batch_size=ROWS_READ, columns=layout.columns):
                batch.validate(full=True)  # Parquet does not promise that its strings are UTF-8
                yield batch

    return Rows(str(path), "row", layout, rows_of_batches(batches(), file=str(path)))


@contextlib.contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} must be a whole Parquet file with UTF-8 text, found: {error}; write it again"
        ) from error


def rows_of_batches(batches: Iterable[Any], *, file: str) -> Iterator[Row]:
    """The rows of Arrow batches or tables, without their nulls.

    In a table all turns of conversations have the keys that any of them has.
    """
    for batch in batches:
        try:
            yield from map(_without_nulls, batch.to_pylist())
        except (ValueError, OverflowError) as error:  # a date beyond the year 9999
            raise DataError(
                f"{file}: the columns that are read must hold values that Python knows, found one "
                f"that it does not ({error}); store them as text"
            ) from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value

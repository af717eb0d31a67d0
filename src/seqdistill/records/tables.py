"""Rows of results as a Parquet file: a list of flat dictionaries, columns in order of appearance.

Knows no column. Facts about all rows, such as versions, lie in the file's own metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.records import atomic

Row = dict[str, Any]
_FACTS = b"facts"


def write_rows(
    path: Path, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
) -> None:
    """Replaces the file in one step. A column of several kinds of values becomes text."""
    columns = {
        key: [row.get(key) for row in rows] for key in dict.fromkeys(k for r in rows for k in r)
    }
    table = pa.table({key: _column(values) for key, values in columns.items()})
    table = table.replace_schema_metadata({_FACTS: json.dumps(facts or {}, ensure_ascii=False)})
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd")
    atomic.write_bytes(path, buffer.getvalue().to_pybytes())


def read_rows(path: Path) -> list[Row]:
    """The rows, each without the columns that it has no value in; none without the file."""
    if not path.is_file():
        return []
    rows = _table(path).to_pylist()
    return [{key: value for key, value in row.items() if value is not None} for row in rows]


def read_facts(path: Path) -> Row:
    """The facts that were written with the rows; none without the file."""
    metadata = _table(path).schema.metadata if path.is_file() else None
    return cast("Row", json.loads((metadata or {}).get(_FACTS, b"{}")))


def _table(path: Path) -> Any:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} must be a Parquet file of results, but {error}; restore or remove it"
        ) from error


def _column(values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        values = [None if v is None else v if isinstance(v, str) else json.dumps(v) for v in values]
    return pa.array(values)

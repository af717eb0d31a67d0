"""Parquet files. Only the columns of the layout are read; their meaning is left to `rows`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.data.columns import TRANSLATION, ColumnChoice, find_layout
from seqdistill.data.examples import Example
from seqdistill.data.rows import Row, examples_from_rows, unreadable


def read_parquet(path: Path, choice: ColumnChoice) -> list[Example]:
    """One example a row. Raises DataError when the file is no whole Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            first: object = None
            if TRANSLATION in names and file.metadata.num_rows:
                head = next(file.iter_batches(batch_size=1, columns=[TRANSLATION]))
                first = head.column(0)[0].as_py()
            layout = find_layout(names, choice, file=str(path), first_translation=first)
            table = file.read(columns=layout.columns)
        table.validate(full=True)  # Parquet does not promise that its strings are UTF-8
        rows = cast("list[Row]", table.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} must be a whole Parquet file with UTF-8 text, found: {error}; write it again"
        ) from error
    except (ValueError, OverflowError) as error:  # a date beyond the year 9999
        raise DataError(f"{path}: {unreadable(error)}") from error
    return examples_from_rows(
        rows, layout, file=str(path), unit="row", need_target=choice.need_target
    )

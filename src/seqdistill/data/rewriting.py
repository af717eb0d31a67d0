"""Rows written again as they are, with further columns: Parquet, JSON lines or TSV, by the suffix.

Rows of .jsonl, .tsv and .parquet files keep all their columns, those that nothing reads, too. Of
whatever else is read as data (pairs of text files, folders, hub names, what is bundled) the texts
are written: source and target, or messages.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqdistill.core.errors import DataError
from seqdistill.data.examples import Example, ExampleTable
from seqdistill.data.files import ROWS_READ, lines_of
from seqdistill.data.readers import extension
from seqdistill.records import atomic

Row = Mapping[str, Any]
SUFFIXES = (".parquet", ".jsonl", ".tsv")


def check_suffix(output: Path) -> None:
    """Raises DataError for a file of another kind than those that are written."""
    if output.suffix not in SUFFIXES:
        raise DataError(
            f"{output} must end with one of {', '.join(SUFFIXES)}, which says how its rows are "
            "written; rename it"
        )


def write_again(
    spec: str,
    examples: ExampleTable,
    columns: Mapping[str, Sequence[object]],
    output: Path,
    *,
    numbers: Collection[str] = (),
) -> None:
    """Replaces `output` by the rows of the examples, each with its values of the further columns.

    Missing parent folders are made.
    `examples` are of `spec`, all or a selection. A column that the rows have is replaced. In a TSV
    all cells are texts but for the columns of `numbers`. Raises DataError for values that the form
    of `output` cannot hold.
    """
    added = (
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    )
    rows = (
        {**row, **more} for row, more in zip(_rows(spec, examples, numbers), added, strict=True)
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".parquet":
        _write_parquet(spec, rows, columns, output)
        return
    lines = _tsv(rows, output) if output.suffix == ".tsv" else map(_json, rows)
    with atomic.new_file(output) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        file.writelines(f"{line}\n" for line in lines)


def _rows(spec: str, examples: ExampleTable, numbers: Collection[str]) -> Iterator[Row]:
    """The rows as they are, of the examples in their order, which is that of the file."""
    path = Path(spec)
    form = extension(path) if path.is_file() else ""
    every: Iterable[Row]
    if form.startswith(".jsonl"):
        every = map(json.loads, map(str, lines_of(path)))
    elif form.startswith(".tsv"):
        every = _cells(path, examples.num_stored, numbers)
    elif form == ".parquet":
        batches = pq.ParquetFile(path).iter_batches(batch_size=ROWS_READ)
        every = (row for batch in batches for row in batch.to_pylist())
    else:
        yield from map(_texts, examples)
        return
    wanted = iter(examples.places)
    place = next(wanted, None)
    for number, row in enumerate(every):
        if number == place:
            yield row
            place = next(wanted, None)


def _cells(path: Path, num_rows: int, numbers: Collection[str]) -> Iterator[Row]:
    """Rows of a TSV, whose first line is a header if it has one more line than rows."""
    lines = [str(line) for line in lines_of(path)]
    names = ["source", "target"]
    if len(lines) > num_rows:
        names = lines.pop(0).split("\t")
    for line in lines:
        cells = itertools.zip_longest(names, line.split("\t"), fillvalue="")
        yield {name: float(cell) if name in numbers else cell for name, cell in cells}


def _texts(example: Example) -> Row:
    """A row that is read as this example."""
    found: dict[str, Any] = {"id": example.id}
    if example.audio is not None:
        text = {} if example.target is None else {"text": example.target}
        return found | {"audio": example.audio} | text
    if example.messages is None:
        texts = {"source": example.source, "target": example.target}
        return found | {name: text for name, text in texts.items() if text is not None}
    answer = [] if example.answer is None else [example.answer]
    found["messages"] = [turn.as_dict() for turn in (*example.messages, *answer)]
    return found | ({"tools": json.loads(example.tools)} if example.tools else {})


def _json(row: Row) -> str:
    try:
        return json.dumps(row, ensure_ascii=False)
    except TypeError as error:  # a date, bytes: of Parquet
        raise DataError(
            f"rows must hold what JSON can say to be written as .jsonl, found: {error}; write a "
            ".parquet file"
        ) from error


def _tsv(rows: Iterator[Row], output: Path) -> Iterator[str]:
    names: list[str] = []
    for row in rows:
        if not names:
            names = [*row]
            yield "\t".join(names)
        cells = ["" if row.get(name) is None else row[name] for name in names]
        for name, cell in zip(names, cells, strict=True):
            if not isinstance(cell, str | int | float) or set("\t\n\r") & set(str(cell)):
                raise DataError(
                    f"{output} must hold texts without tabs and line ends, as a .tsv does, found "
                    f"another in the column {name!r}; write a .jsonl or .parquet file"
                )
        yield "\t".join(map(str, cells))


def _write_parquet(
    spec: str, rows: Iterator[Row], columns: Mapping[str, Sequence[object]], output: Path
) -> None:
    """From a Parquet file part by part, in its own schema; else the rows say what their columns
    are, which takes them all together."""
    schema, size = None, None
    if spec.endswith(".parquet"):
        kept = [field for field in pq.read_schema(spec) if field.name not in columns]
        more = [pa.field(name, pa.array(values[:1]).type) for name, values in columns.items()]
        schema, size = pa.schema([*kept, *more]), ROWS_READ
    try:
        parts = iter(lambda: [*itertools.islice(rows, size)], [])
        first = pa.Table.from_pylist(next(parts), schema=schema)
        with (
            atomic.new_file(output) as aside,
            pq.ParquetWriter(aside, first.schema, compression="zstd") as writer,
        ):
            writer.write_table(first)
            for part in parts:
                writer.write_table(pa.Table.from_pylist(part, schema=schema))
    except pa.ArrowException as error:
        raise DataError(
            f"{output} must have values of one kind in each column to be Parquet, found: {error}; "
            "write a .jsonl file"
        ) from error

"""Writes a corpus: its rows as Parquet and corpus.json. Equal rows give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TOOLS = {"pyarrow": pa.__version__}
"""What the bytes depend on besides the rows."""


def parquet_bytes(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, row_group_size: int
) -> bytes:
    """The rows, in their order, as one Parquet file of strings."""
    values = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    table = pa.Table.from_arrays(values, names=list(columns))
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, compression="zstd", compression_level=19, row_group_size=row_group_size
    )
    return bytes(sink.getvalue().to_pybytes())


def write_corpus(folder: Path, content: bytes, facts: Mapping[str, object]) -> None:
    """Writes corpus.parquet and corpus.json, and prints what the latter says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.parquet").write_bytes(content)
    said = json.dumps(facts, indent=1)
    (folder / "corpus.json").write_text(said + "\n", encoding="utf-8")
    print(said)

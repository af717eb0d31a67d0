"""Rows written again are the rows that were read, whole, with further columns."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqdistill.core.errors import DataError
from seqdistill.data.examples import ExampleTable
from seqdistill.data.readers import read_examples
from seqdistill.data.rewriting import SUFFIXES, write_again

TEXTS = [{"source": f"one {n}", "target": f"eins {n}", "level": n} for n in range(3)]
CHAT = [
    {
        "id": f"c{n}",
        "messages": [
            {"role": "user", "content": f"how {n}?"},
            {"role": "assistant", "content": f"so {n}"},
        ],
    }
    for n in range(3)
]
RATES = [0.0, 0.25, 1.0]


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", "utf-8")
    return str(path)


def rated(spec: str, examples: ExampleTable, output: Path, rates: list[float]) -> ExampleTable:
    columns: dict[str, list[Any]] = {"rate": rates, "num": [8] * len(rates)}
    write_again(spec, examples, columns, output, numbers=["level"])
    return read_examples(str(output), targets="optional", extra_columns=["rate", "num"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", ["a.parquet", "a.jsonl", "a.tsv"])
def test_rows_keep_all_columns_and_get_more(tmp_path: Path, form: str, suffix: str) -> None:
    spec = written(tmp_path, form, TEXTS)
    examples = read_examples(spec)
    found = rated(spec, examples, tmp_path / f"b{suffix}", RATES)
    assert [dict(e.extras) for e in found] == [{"rate": rate, "num": 8.0} for rate in RATES]
    assert [(e.source, e.target) for e in found] == [(e.source, e.target) for e in examples]
    levels = read_examples(str(tmp_path / f"b{suffix}"), extra_columns=["level"])
    assert [e.extras["level"] for e in levels] == [0.0, 1.0, 2.0]
    again = rated(str(tmp_path / f"b{suffix}"), found, tmp_path / f"c{suffix}", RATES[::-1])
    assert [e.extras["rate"] for e in again] == RATES[::-1], "a column is replaced"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize("form", ["a.parquet", "a.jsonl"])
def test_conversations_stay_what_they_are(tmp_path: Path, form: str, suffix: str) -> None:
    spec = written(tmp_path, form, CHAT)
    examples = read_examples(spec)
    found = rated(spec, examples, tmp_path / f"b{suffix}", RATES)
    assert [(e.id, e.messages, e.target) for e in found] == [
        (e.id, e.messages, e.target) for e in examples
    ]


def test_of_a_selection_its_rows_are_written(tmp_path: Path) -> None:
    spec = written(tmp_path, "a.jsonl", TEXTS)
    output = tmp_path / "new" / "b.parquet"
    found = rated(spec, read_examples(spec).select([0, 2]), output, [0.5, 0.75])
    assert [(e.source, e.extras["rate"]) for e in found] == [("one 0", 0.5), ("one 2", 0.75)]


def test_what_has_no_columns_is_written_as_source_and_target(tmp_path: Path) -> None:
    (tmp_path / "a.src").write_text("x\ny\n", "utf-8")
    (tmp_path / "a.tgt").write_text("X\nY\n", "utf-8")
    (tmp_path / "p.txt").write_text("x\ny\n", "utf-8")
    (tmp_path / "no-header.tsv").write_text("x\tX\ny\tY\n", "utf-8")
    for spec in (f"{tmp_path}/a.src,{tmp_path}/a.tgt", f"{tmp_path}/no-header.tsv"):
        examples = read_examples(spec)
        found = rated(spec, examples, tmp_path / "b.tsv", [0.0, 1.0])
        assert [(e.source, e.target, e.extras["rate"]) for e in found] == [
            ("x", "X", 0.0),
            ("y", "Y", 1.0),
        ]
    alone = read_examples(str(tmp_path / "p.txt"), targets="optional")
    found = rated(str(tmp_path / "p.txt"), alone, tmp_path / "b.jsonl", [0.0, 1.0])
    assert [(e.source, e.target) for e in found] == [("x", None), ("y", None)]
    bundled = read_examples("bundled:arithmetic", split="test").select([3, 5])
    found = rated("bundled:arithmetic", bundled, tmp_path / "b.parquet", [0.0, 1.0])
    assert [(e.id, e.source, e.target) for e in found] == [
        (e.id, e.source, e.target) for e in bundled
    ]


def test_what_a_form_cannot_hold_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    day = datetime.date(2026, 11, 30)
    for rows, name in (
        (CHAT, "b.tsv"),
        ([{**row, "note": "a\tb"} for row in TEXTS], "b.tsv"),
        ([{**row, "day": day} for row in TEXTS], "b.jsonl"),
    ):
        spec = written(tmp_path, "a.parquet", rows)
        with pytest.raises(DataError, match=r"write a \.(jsonl or \.)?parquet file"):
            rated(spec, read_examples(spec), tmp_path / name, RATES)
        assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    mixed = written(tmp_path, "a.jsonl", [{**TEXTS[0], "note": 1}, {**TEXTS[1], "note": "two"}])
    with pytest.raises(DataError, match=r"values of one kind .* write a \.jsonl file"):
        rated(mixed, read_examples(mixed), tmp_path / "b.parquet", RATES[:2])
    assert not (tmp_path / "b.parquet").exists()

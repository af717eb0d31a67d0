"""Bundled corpora: rows of the split, ids of the file, a checksum that is looked at."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqdistill.core.errors import DataError
from seqdistill.data import bundled
from seqdistill.data.examples import Example
from seqdistill.data.readers import read_examples

ROWS = [
    {"id": f"pkg/{split}/{n}", "source": f"s{n}", "target": f"t{n}", "split": split, "origin": "x"}
    for split, count in (("train", 3), ("dev", 2), ("test", 1))
    for n in range(count)
]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with one small bundled corpus, `bundled:tiny`."""
    folder = tmp_path / "bundled" / "tiny"
    folder.mkdir(parents=True)
    write(folder, ROWS)
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    return folder


def write(folder: Path, rows: list[dict[str, str]], **facts: list[str]) -> None:
    """A corpus of these rows, its checksum and further facts beside it."""
    pq.write_table(pa.Table.from_pylist(rows), folder / "corpus.parquet")
    digest = hashlib.sha256((folder / "corpus.parquet").read_bytes()).hexdigest()
    (folder / "corpus.json").write_text(json.dumps({"sha256": digest, **facts}))
    bundled._rows.cache_clear()


@pytest.mark.parametrize("columns", [("source", "target"), ("document", "summary")])
def test_a_split_holds_its_own_rows_in_order(corpus: Path, columns: tuple[str, str]) -> None:
    names = dict(zip(("source", "target"), columns, strict=True))
    write(corpus, [{names.get(key, key): value for key, value in row.items()} for row in ROWS])
    for split, count in (("train", 3), ("dev", 2), ("test", 1)):
        expected = [Example(f"pkg/{split}/{n}", f"s{n}", f"t{n}") for n in range(count)]
        assert read_examples("bundled:tiny", split=split) == expected
    pq.write_table(pa.Table.from_pylist(ROWS[1:]), corpus / "corpus.parquet")
    bundled._rows.cache_clear()
    with pytest.raises(DataError, match=r"corpus\.parquet must have the sha256"):
        read_examples("bundled:tiny", split="train")


def test_a_further_test_set_is_named_after_a_slash(corpus: Path) -> None:
    further = {"id": "x", "source": "new", "target": "t", "split": "strange", "origin": "x"}
    write(corpus, [*ROWS, further], further_tests=["strange"])
    assert read_examples("bundled:tiny/strange", split="test") == [Example("x", "new", "t")]
    assert len(read_examples("bundled:tiny", split="test")) == 1
    with pytest.raises(DataError, match="one of test for bundled:tiny/strange, got train"):
        read_examples("bundled:tiny/strange", split="train")
    with pytest.raises(DataError, match=r"one of bundled:tiny/strange, got 'bundled:tiny/stran'"):
        read_examples("bundled:tiny/stran", split="test")


@pytest.mark.parametrize(
    ("spec", "split", "found"),
    [
        ("bundled:tiny", None, "one of train, dev, test for bundled:tiny, got None"),
        ("bundled:tin", "train", "one of bundled:tiny, got 'bundled:tin'.*'bundled:tiny'"),
        ("bundled:tiny/train", "test", "must be one of none"),
        ("bundled:tiny/", "test", "must be one of none"),
    ],
)
def test_a_corpus_a_part_and_a_split_must_be_there(
    corpus: Path, spec: str, split: str | None, found: str
) -> None:
    with pytest.raises(DataError, match=found):
        read_examples(spec, split=split)

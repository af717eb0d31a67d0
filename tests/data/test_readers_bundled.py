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
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "corpus.parquet")
    digest = hashlib.sha256((folder / "corpus.parquet").read_bytes()).hexdigest()
    (folder / "corpus.json").write_text(json.dumps({"sha256": digest}))
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    bundled._check_sha256.cache_clear()
    return folder


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("dev", 2), ("test", 1)])
def test_a_split_holds_its_own_rows_in_order(corpus: Path, split: str, count: int) -> None:
    expected = [Example(f"pkg/{split}/{n}", f"s{n}", f"t{n}") for n in range(count)]
    assert read_examples("bundled:tiny", split=split) == expected


def test_a_changed_file_is_refused(corpus: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[1:]), corpus / "corpus.parquet")
    with pytest.raises(DataError, match=r"corpus\.parquet must have the sha256"):
        read_examples("bundled:tiny", split="train")


def test_a_bundled_corpus_is_never_read_without_saying_which_split(corpus: Path) -> None:
    with pytest.raises(DataError, match="one of train, dev, test for bundled:tiny, got None"):
        read_examples("bundled:tiny")


def test_an_unknown_name_lists_the_bundled_corpora(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"one of bundled:tiny, got 'bundled:tin'.*'bundled:tiny'"):
        read_examples("bundled:tin", split="train")

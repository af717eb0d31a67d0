"""The corpora inside the package, checked against the checksum beside them."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from pathlib import Path

import pyarrow.parquet as pq

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.data.columns import ColumnChoice, named_pair
from seqdistill.data.examples import Example, ExampleTable

SPLITS = ("train", "dev", "test")
SCHEME = "bundled:"
"""What the names of data and models inside the package begin with."""


def read_bundled(spec: str, *, split: str | None) -> ExampleTable:
    """The examples of one split of a bundled corpus, such as `bundled:en-de`, with stable ids.

    `bundled:arithmetic/new-templates` is a further test set of a corpus: it has the split `test`
    and no other.

    Raises DataError for an unknown corpus or part, a split that is not chosen or not there, and a
    file that is not the one its checksum describes.
    """
    name, _, part = spec.removeprefix(SCHEME).partition("/")
    corpus = _corpus_folder(spec, name)
    manifest = json.loads((corpus / "corpus.json").read_text("utf-8"))
    if "/" in spec:
        further = [f"{SCHEME}{name}/{known}" for known in manifest.get("further_tests", [])]
        if spec not in further:
            raise DataError(
                f"a part of {SCHEME}{name} must be one of {', '.join(further) or 'none'}, got "
                f"{spec!r}.{did_you_mean(spec, further)}"
            )
    splits = ("test",) if part else SPLITS
    if split not in splits:
        raise DataError(
            f"split must be one of {', '.join(splits)} for {spec}, got {split}; name one of them"
        )
    file = corpus_file(spec)
    return _rows(file, manifest["sha256"], part or str(split))


def bundled_folder() -> Path:
    """The folder of the package that holds bundled corpora and models, each under its name."""
    return Path(str(importlib.resources.files("seqdistill"))) / "bundled"


def corpus_file(spec: str) -> Path:
    """The file of a bundled corpus, existing or not; parts lie in that of the whole."""
    return bundled_folder() / spec.removeprefix(SCHEME).partition("/")[0] / "corpus.parquet"


def _corpus_folder(spec: str, name: str) -> Path:
    known = sorted(file.parent.name for file in bundled_folder().glob("*/corpus.json"))
    if name not in known:
        specs = [SCHEME + other for other in known]
        raise DataError(
            f"a bundled corpus must be one of {', '.join(specs) or 'none in this installation'}, "
            f"got {spec!r}.{did_you_mean(spec, specs)}"
        )
    return bundled_folder() / name


@functools.lru_cache(maxsize=8)
def _rows(file: Path, expected: str, part: str) -> ExampleTable:
    """Checked and read once a process; a failure is not remembered."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != expected:
        raise DataError(
            f"{file} must have the sha256 {expected} of corpus.json, found {found}; install the "
            "package again"
        )
    pair = named_pair(pq.read_schema(file).names, ColumnChoice())
    assert pair is not None, "every bundled corpus has a source and a target column"
    table = pq.read_table(file, columns=["id", *pair], filters=[("split", "==", part)])
    columns = (table.column(name).to_pylist() for name in ("id", *pair))
    return ExampleTable.of(Example(*fields) for fields in zip(*columns, strict=True))

"""The corpora inside the package, checked against the checksum beside them."""

from __future__ import annotations

import functools
import hashlib
import importlib.resources
import json
from importlib.resources.abc import Traversable

import pyarrow.parquet as pq

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.data.examples import Example

SPLITS = ("train", "dev", "test")
SCHEME = "bundled:"


def read_bundled(spec: str, *, split: str | None) -> list[Example]:
    """The examples of one split of a bundled corpus, such as `bundled:en-de`, with stable ids.

    Raises DataError for an unknown corpus, a split that is not chosen or unknown, and a file that
    is not the one its checksum describes.
    """
    corpus = _corpus_folder(spec)
    if split not in SPLITS:
        raise DataError(
            f"split must be one of {', '.join(SPLITS)} for {spec}, got {split}; name one of them"
        )
    _check_sha256(spec)
    with corpus.joinpath("corpus.parquet").open("rb") as stream:
        table = pq.read_table(
            stream, columns=["id", "source", "target"], filters=[("split", "==", split)]
        )
    columns = (table.column(name).to_pylist() for name in ("id", "source", "target"))
    return [Example(*fields) for fields in zip(*columns, strict=True)]


def _corpus_folder(spec: str) -> Traversable:
    name = spec.removeprefix(SCHEME)
    folder = importlib.resources.files("seqdistill").joinpath("bundled")
    known = (
        sorted(entry.name for entry in folder.iterdir() if entry.joinpath("corpus.json").is_file())
        if folder.is_dir()
        else []
    )
    if name not in known:
        specs = [SCHEME + other for other in known]
        raise DataError(
            f"a bundled corpus must be one of {', '.join(specs) or 'none in this installation'}, "
            f"got {spec!r}.{did_you_mean(spec, specs)}"
        )
    return folder.joinpath(name)


@functools.cache
def _check_sha256(spec: str) -> None:
    """Checked once a process; a failure is not remembered."""
    corpus = _corpus_folder(spec)
    expected = json.loads(corpus.joinpath("corpus.json").read_text("utf-8"))["sha256"]
    found = hashlib.sha256(corpus.joinpath("corpus.parquet").read_bytes()).hexdigest()
    if found != expected:
        raise DataError(
            f"{corpus.joinpath('corpus.parquet')} must have the sha256 {expected} of corpus.json, "
            f"found {found}; install the package again"
        )

"""Data sets of the `datasets` library: folders it saved, folders of data files, hub names."""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pandas  # type: ignore[import-untyped]
import pyarrow.parquet as pq
from datasets.packaged_modules.csv.csv import Csv

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.data.columns import ColumnChoice, find_layout
from seqdistill.data.files import ROWS_READ, rows_of_batches
from seqdistill.data.rows import Rows

_SPELLINGS_OF_DEV = ("dev", "validation", "valid", "val")
_COUNTED = (".csv", ".jsonl", ".parquet", ".tsv")
"""Files of which `_place` can tell how many rows each has."""


def folder_rows(folder: str, choice: ColumnChoice, *, split: str | None) -> Rows:
    """The rows of one split of a folder: one that `save_to_disk` wrote, or of data files.

    A folder that holds a single saved table has no splits and is taken whole. Raises DataError
    for a folder that `datasets` cannot load and for a split that is not there.
    """
    saved = (Path(folder) / name for name in ("state.json", "dataset_dict.json"))
    files: dict[str, list[str]] = {}
    form: dict[str, Any] = {}
    try:
        if any(file.is_file() for file in saved):
            loaded = datasets.load_from_disk(folder)
        else:
            builder = datasets.load_dataset_builder(folder)
            parts = builder.config.data_files or {}
            files = {str(split): [*map(str, found)] for split, found in parts.items()}
            features = None
            if isinstance(builder, Csv):
                first = next(iter(files.values()))[0]
                form = _form_of_tables(first)
                names = pandas.read_csv(first, nrows=0, **form).columns
                features = datasets.Features({str(n): datasets.Value("string") for n in names})
            loaded = datasets.load_dataset(folder, features=features, **form)
    # Broad because `datasets` lets the errors of pyarrow, fsspec and its readers through.
    except Exception as error:
        raise DataError(
            f"the folder {folder} must be one that `datasets` wrote, or hold .jsonl, .parquet, "
            f".csv or .tsv files, but it cannot be loaded: {error.__cause__ or error}; a .jsonl, "
            ".parquet or .tsv file that is named by itself is told its wrong lines"
        ) from error
    table = _chosen_split(loaded, split, folder)
    rows = _rows(table, choice, file=folder)
    own = files.get(str(table.split), [])
    if not own or not all(file.endswith(_COUNTED) for file in own):
        return rows
    return dataclasses.replace(rows, locate=functools.partial(_place, own, form))


def _place(files: Sequence[str], form: Mapping[str, Any], number: int) -> str:
    """Where a row of all the files together stands; they are read for a row that is wrong only."""
    for file in files:
        if file.endswith(".parquet"):
            num_rows = int(pq.read_metadata(file).num_rows)
        elif file.endswith(".jsonl"):
            with open(file, "rb") as stream:
                num_rows = sum(not line.isspace() for line in stream)
        else:
            num_rows = len(pandas.read_csv(file, usecols=[0], **form))
        if number <= num_rows:
            break
        number -= num_rows
    return f"{file}, row {number}"


def _form_of_tables(file: str) -> dict[str, Any]:
    """How .csv and .tsv files are read: cells are texts, NA is a word, 007 no number.

    In .tsv quotes are characters, as they are where such a file is named by itself.
    """
    is_tsv = file.lower().endswith((".tsv", ".tsv.gz"))
    return {
        "sep": "\t" if is_tsv else ",",
        "quoting": csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
        "keep_default_na": False,
    }


def hub_rows(spec: str, choice: ColumnChoice, *, split: str | None) -> Rows:
    """The rows of one split of a hub data set, `name` or `name:configuration`.

    Raises DataError when it cannot be fetched: unknown, offline, or a configuration is missing.
    """
    name, _, configuration = spec.partition(":")
    try:
        loaded = datasets.load_dataset(name, configuration or None)
    # Broad because the hub client raises errors of several HTTP libraries.
    except Exception as error:
        raise DataError(
            f"{spec!r} must be an existing file or folder, or a data set of the hub that can be "
            f"reached: no such path exists, and the hub gave {type(error).__name__}: {error}; "
            "check the spelling, or the network"
        ) from error
    return _rows(_chosen_split(loaded, split, spec), choice, file=spec)


def _chosen_split(loaded: Any, split: str | None, file: str) -> Any:
    """The table of the split; `datasets` is untyped, so is this."""
    if isinstance(loaded, datasets.Dataset):
        return loaded
    names = [str(name) for name in loaded]
    if split is None and len(names) == 1:
        return loaded[names[0]]
    for spelling in _SPELLINGS_OF_DEV if split == "dev" else (split,):
        if spelling in names:
            return loaded[spelling]
    hint = "" if split is None else did_you_mean(split, names)
    raise DataError(
        f"{file}: split must be one of {', '.join(names)}, got {split}.{hint} If a split is a file "
        "of its own, name that file"
    )


def _rows(table: Any, choice: ColumnChoice, *, file: str) -> Rows:
    layout = find_layout([*map(str, table.column_names)], choice, file=file)
    arrow = table.select_columns(layout.columns).with_format("arrow")
    rows = rows_of_batches(arrow.iter(ROWS_READ), file=file)
    return Rows(file, "row", layout, rows, identity=str(table._fingerprint), size=table.data.nbytes)

"""Data sets of the `datasets` library: folders it saved, folders of data files, hub names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import datasets
import pandas  # type: ignore[import-untyped]
from datasets.packaged_modules.csv.csv import Csv

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.data.columns import ColumnChoice, find_layout
from seqdistill.data.files import ROWS_READ, rows_of_batches
from seqdistill.data.rows import Rows

_SPELLINGS_OF_DEV = ("dev", "validation", "valid", "val")


def folder_rows(folder: str, choice: ColumnChoice, *, split: str | None) -> Rows:
    """The rows of one split of a folder: one that `save_to_disk` wrote, or of data files.

    A folder that holds a single saved table has no splits and is taken whole. Raises DataError
    for a folder that `datasets` cannot load and for a split that is not there.
    """
    saved = (Path(folder) / name for name in ("state.json", "dataset_dict.json"))
    try:
        is_saved = any(file.is_file() for file in saved)
        loaded = datasets.load_from_disk(folder) if is_saved else _load_files(folder)
    # Broad because `datasets` lets the errors of pyarrow, fsspec and its readers through.
    except Exception as error:
        raise DataError(
            f"the folder {folder} must be one that `datasets` wrote, or hold .jsonl, .parquet, "
            f".csv or .tsv files, but it cannot be loaded: {error.__cause__ or error}; a .jsonl, "
            ".parquet or .tsv file that is named by itself is told its wrong lines"
        ) from error
    return _rows(_chosen_split(loaded, split, folder), choice, file=folder)


def _load_files(folder: str) -> Any:
    """The data files of a folder. Cells of .csv and .tsv are texts: NA is a word, 007 no number.

    In .tsv quotes are characters, as they are where such a file is named by itself.
    """
    builder = datasets.load_dataset_builder(folder)
    if not isinstance(builder, Csv):
        return datasets.load_dataset(folder)
    files = [str(file) for split in (builder.config.data_files or {}).values() for file in split]
    is_tsv = files[0].lower().endswith((".tsv", ".tsv.gz"))
    form: dict[str, Any] = {
        "sep": "\t" if is_tsv else ",",
        "quoting": csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL,
        "keep_default_na": False,
    }
    columns = pandas.read_csv(files[0], nrows=0, **form).columns
    features = datasets.Features({str(name): datasets.Value("string") for name in columns})
    return datasets.load_dataset(folder, features=features, **form)


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

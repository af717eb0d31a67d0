"""From what a user names to examples: files, pairs of files, folders, hub names, bundled corpora.

This module decides by the name which reader reads; the formats are in the modules beside it. It
does not tokenize, filter or shuffle: ids and order are those of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.core.siblings import may_be_hub_dataset, sibling_hint
from seqdistill.data.bundled import SCHEME, read_bundled
from seqdistill.data.columns import ColumnChoice
from seqdistill.data.examples import Example
from seqdistill.data.jsonl import read_jsonl
from seqdistill.data.line_aligned import read_line_aligned, read_sources
from seqdistill.data.parquet import read_parquet
from seqdistill.data.tsv import read_tsv

SPLITS = ("train", "dev", "test")
EXTENSIONS = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")


def read_examples(
    spec: str,
    *,
    split: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    need_target: bool = True,
    ignore_columns: Sequence[str] = (),
) -> list[Example]:
    """The examples that `spec` names, in the order of the file.

    `spec` is `bundled:en-de`; a .tsv, .jsonl or .parquet file (text may be packed as .gz); two
    line-aligned text files `a.src,b.tgt`; a folder for `datasets`; or a hub name, with
    `:configuration` where it has several. `split` ("train", "dev" or "test") chooses among the
    parts of a bundled corpus or of a data set; a single file is its own split. Columns are found
    by name (see `columns.PAIRS`; `translation`; `messages`) unless given. With `need_target`
    False sources alone are enough, a .txt file among them, and a missing target is None. Columns
    and keys of turns in `ignore_columns` are as if they were not there.

    An id is the value of the column `id`, else the number of the row counted from 1. Raises
    DataError, naming file and line, for anything that cannot be used.
    """
    if split is not None and split not in SPLITS:
        raise DataError(
            f"split must be one of {', '.join(SPLITS)}, got {split!r}.{did_you_mean(split, SPLITS)}"
        )
    choice = ColumnChoice(
        source_column,
        target_column,
        source_language,
        target_language,
        need_target,
        tuple(ignore_columns),
    )
    path = Path(spec)
    if spec.startswith(SCHEME):
        return read_bundled(spec, split=split)
    if not spec.strip():
        raise DataError("data must be named by a file, folder or hub name, got an empty name")
    if path.is_dir() or (not path.exists() and may_be_hub_dataset(spec)):
        # Imported here: `datasets` takes a second to import, and most data are files.
        from seqdistill.data.dataset_folder import read_dataset_folder, read_hub_dataset

        if path.is_dir():
            return read_dataset_folder(path, choice, split=split)
        return read_hub_dataset(spec, choice, split=split)
    if not path.exists() and "," in spec:
        return _read_pair(spec)
    return _read_file(path, choice)


def _read_pair(spec: str) -> list[Example]:
    names = spec.split(",")
    if len(names) != 2 or not all(names):
        raise DataError(
            f"line-aligned files must be two names with a comma between them, got {spec!r}; "
            "write source_file,target_file without spaces around the comma"
        )
    source_path, target_path = Path(names[0]), Path(names[1])
    for path in (source_path, target_path):
        _check_exists(path)
    return read_line_aligned(source_path, target_path)


def _read_file(path: Path, choice: ColumnChoice) -> list[Example]:
    _check_exists(path)
    match _extension(path):
        case ".tsv" | ".tsv.gz":
            return read_tsv(path, choice)
        case ".jsonl" | ".jsonl.gz":
            return read_jsonl(path, choice)
        case ".parquet":
            return read_parquet(path, choice)
        case ".txt" | ".txt.gz" if not choice.need_target:
            return read_sources(path)
        case ".txt" | ".txt.gz":
            raise DataError(
                f"{path} must come with its targets, found one text file; give two line-aligned "
                "files as source_file,target_file"
            )
        case _:
            raise DataError(
                f"{path} must have one of the extensions {', '.join(EXTENSIONS)}; rename or "
                "convert it, or give two line-aligned text files as source_file,target_file"
            )


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise DataError(
            f"{path} must be an existing file or folder; paths count from the current "
            f"folder.{sibling_hint(path)}"
        )
    if path.is_dir():
        raise DataError(f"{path} must be a file, found a folder")


def _extension(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])

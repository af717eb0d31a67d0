"""From what a user names to examples: files, pairs of files, folders, hub names, bundled corpora.

The name decides which reader of `files` and `dataset_folder` reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from seqdistill.core.errors import DataError, did_you_mean
from seqdistill.core.hub import may_be_hub_dataset, sibling_hint
from seqdistill.data.bundled import SCHEME, SPLITS, read_bundled
from seqdistill.data.cache import content_of, stored
from seqdistill.data.columns import ColumnChoice, Targets, check_no_extras
from seqdistill.data.examples import ExampleTable
from seqdistill.data.files import aligned_rows, jsonl_rows, parquet_rows, source_rows, tsv_rows
from seqdistill.data.rows import Rows, examples_of

EXTENSIONS = (".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".txt", ".txt.gz")


def read_examples(
    spec: str,
    *,
    split: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    source_language: str | None = None,
    target_language: str | None = None,
    targets: Targets = "needed",
    ignore_columns: Sequence[str] = (),
    extra_columns: Sequence[str] = (),
    teacher_column: str | None = None,
    route: tuple[str, tuple[str, ...]] | None = None,
) -> ExampleTable:
    """The examples that `spec` names, in the order of the file.

    `spec` is `bundled:en-de`; a .tsv, .jsonl or .parquet file (text may be packed as .gz); two
    line-aligned text files `a.src,b.tgt`; a folder for `datasets`; or a hub name, with
    `:configuration` where it has several. `split` ("train", "dev" or "test") chooses among the
    parts of a bundled corpus or of a data set. Columns are found by name (see `columns.PAIRS`;
    `translation`; `messages`) unless given; `audio` holds paths of recordings, from the table's
    folder; those in `extra_columns` hold numbers, `teacher_column` what the teacher reads in the
    place of the source, that of `route` which of several teachers a row is for, and columns and
    keys of turns in `ignore_columns` are as if they were not there. Where `targets` are not needed,
    sources alone are enough, a .txt file among them: see `columns.Targets`.

    An id is the value of the column `id`, else the number of the row counted from 1. What is large
    is read and checked once, kept in the cache, and mapped into memory. Raises DataError, naming
    file and line, for anything that cannot be used.
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
        targets,
        tuple(ignore_columns),
        tuple(extra_columns),
        teacher_column,
        route,
    )
    path = Path(spec)
    if spec.startswith(SCHEME):
        check_no_extras(spec, choice)
        bundled = read_bundled(spec, split=split)
        if targets == "unread":
            return ExampleTable.of(example.without_reference() for example in bundled)
        return bundled
    if not spec.strip():
        raise DataError("data must be named by a file, folder or hub name, got an empty name")
    if path.is_dir() or (not path.exists() and may_be_hub_dataset(spec)):
        # Imported here: `datasets` takes a second to import, and most data are files.
        from seqdistill.data.dataset_folder import folder_rows, hub_rows

        read = folder_rows if path.is_dir() else hub_rows
        rows = read(spec, choice, split=split)
        found = _table(lambda: rows, choice, lambda: rows.identity, rows.size)
        return found.with_audio_in(path) if found.has_audio else found
    names = spec.split(",") if not path.exists() and "," in spec else [spec]
    if len(names) > 2 or not all(names):
        raise DataError(
            f"line-aligned files must be two names with a comma between them, got {spec!r}; "
            "write source_file,target_file without spaces around the comma"
        )
    paths = [Path(name) for name in names]
    for path in paths:
        _check_exists(path)
    packed = 1 if extension(path) in (".tsv", ".jsonl", ".txt") else 4
    if len(paths) == 2 or not extension(path).startswith((".jsonl", ".parquet", ".tsv")):
        check_no_extras(spec, choice)
    size = sum(path.stat().st_size for path in paths) * packed
    found = _table(lambda: _rows(paths, choice), choice, lambda: [*map(content_of, paths)], size)
    return found.with_audio_in(paths[0].parent) if found.has_audio else found


def _table(
    make: Callable[[], Rows], choice: ColumnChoice, content: Callable[[], object], size: int
) -> ExampleTable:
    """The examples of the rows, from the cache where rows of this content were read before."""
    found = stored(
        "rows",
        lambda: [content(), dataclasses.asdict(choice)],
        lambda: ExampleTable.batches_of(examples_of(make(), targets=choice.targets)),
        ExampleTable.schema,
        num_bytes=size,
    )
    return ExampleTable(found)


def _rows(paths: list[Path], choice: ColumnChoice) -> Rows:
    path = paths[0]
    if len(paths) == 2:
        return aligned_rows(path, paths[1])
    match extension(path).removesuffix(".gz"):
        case ".tsv":
            return tsv_rows(path, choice)
        case ".jsonl":
            return jsonl_rows(path, choice)
        case ".parquet" if not path.name.endswith(".gz"):
            return parquet_rows(path, choice)
        case ".txt" if choice.targets != "needed":
            return source_rows(path)
        case ".txt":
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


def extension(path: Path) -> str:
    """What decides how a file is read, in lower case: `.jsonl`, `.tsv.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])

"""Where read and tokenized data are kept between runs: Arrow files under the name of their content.

A file is whole or absent, and is read only when its checksum is right: what was damaged is made
again. Any of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash
from filelock import FileLock

from seqdistill.core.errors import DataError
from seqdistill.data.tables import Notes, Stored, in_memory, put_away
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.fingerprint import of_settings

_LOG = logging.getLogger(__name__)
FOLDER_VARIABLE = "SEQDISTILL_CACHE"
"""The environment variable that names the folder of the cache."""
CACHED_FROM_BYTES = 4 * 2**20
"""Smaller data stay in memory: making them again takes a second."""
VERSION = 2
"""Of what is in the files: another version finds none of the older ones."""


def cache_folder() -> Path:
    """`$SEQDISTILL_CACHE`, else `seqdistill` in `$XDG_CACHE_HOME` or `~/.cache`."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqdistill"


def stored(
    name: str,
    key: Callable[[], object],
    make: Callable[[], Iterable[tuple[Any, Notes]]],
    schema: Any,
    *,
    num_bytes: int,
) -> Stored:
    """The batches that `make` makes, or those that it once made under the same `key`.

    `num_bytes` is about what they take: little is kept in memory alone. While one process makes
    them, others wait for it. Raises DataError where the cache cannot be written.
    """
    if num_bytes < CACHED_FROM_BYTES:
        return in_memory(make(), schema)
    path = cache_folder() / name / f"{of_settings([VERSION, key()])[:32]}.arrow"
    for entry in (path, path.with_suffix(".json"), path.with_suffix(".lock")):
        if entry.is_dir():
            raise DataError(f"{entry} must be a file of the cache, found a folder; remove it")
    if (found := _opened(path, _LOG.debug)) is not None:  # perhaps it is being made right now
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_suffix(".lock")).acquire()
    except OSError as error:
        raise DataError(
            f"The cache of read and tokenized data must be in a folder that can be written, found: "
            f"{error}; set the environment variable {FOLDER_VARIABLE} to another folder"
        ) from error
    with lock:
        if (found := _opened(path, _LOG.warning)) is None:
            for left in path.parent.glob(f"{path.name}.partial-*"):  # of a process that was killed
                left.unlink(missing_ok=True)
            _write(path, make(), schema)
            found = _opened(path, _LOG.warning)
    assert found is not None, "what was just written is whole"
    return found


def _write(path: Path, batches: Iterable[tuple[Any, Notes]], schema: Any) -> None:
    with new_file(path) as aside:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            fingerprint, notes = put_away(batches, writer.write_batch)
        facts = {"fingerprint": fingerprint, "notes": dict(notes)}
        checksum = _checksum(aside, facts)
    write_json(path.with_suffix(".json"), {"checksum": checksum, **facts})


def _checksum(path: Path, facts: object) -> str:
    with open(path, "rb") as stream:
        content = hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()
    return of_settings([content, facts])


def _opened(path: Path, tell: Callable[..., None]) -> Stored | None:
    """The whole file, mapped; None where there is none, or none that is whole, which it tells."""
    try:
        facts = dict(json.loads(path.with_suffix(".json").read_bytes()))
        if facts.pop("checksum") != _checksum(path, facts):
            raise ValueError("another checksum")
        with open(path, "rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        return Stored(table, str(facts["fingerprint"]), dict(facts["notes"]), (mapped,))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        tell("%s is damaged (%s) and is made again", path, error)
        return None

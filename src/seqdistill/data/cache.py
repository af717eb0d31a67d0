"""Where read and tokenized data are kept between runs: Arrow files under the name of their content.

A file is whole or absent, and is read only when its checksum is right: what was damaged is made
again. Large files are hashed once, and again when their size, inode or times are other ones. Any of
it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from seqdistill.core.errors import DataError, UserError
from seqdistill.data.tables import Notes, Stored, in_memory, put_away
from seqdistill.records.atomic import new_file, write_json
from seqdistill.records.fingerprint import FileState, file_state, of_file, of_settings

_LOG = logging.getLogger(__name__)
FOLDER_VARIABLE = "SEQDISTILL_CACHE"
"""The environment variable that names the folder of the cache."""
CACHED_FROM_BYTES = 4 * 2**20
"""Smaller data stay in memory: making them again takes a second."""
VERSION = 5
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


def content_of(path: str | Path) -> str:
    """The SHA-256 of the file's bytes; a large one is read once as long as it is as it was.

    What it was is its inode, its size and when it was written and changed; one that was changed a
    moment ago may be changed again without a new time, and is not believed. Raises UserError when
    it cannot be read.
    """
    try:
        state = file_state(path)
    except OSError:
        return of_file(path)
    if state.size < CACHED_FROM_BYTES:
        return of_file(path)
    try:
        noted = json.loads(_note_of(path).read_bytes())
        if noted["state"] == [*state]:
            return str(noted["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = of_file(path)
    if state.is_settled and file_state(path) == state:
        _note(path, state, found)
    return found


def _note_of(path: str | Path) -> Path:
    return cache_folder() / "contents" / f"{of_settings(os.path.realpath(path))[:32]}.json"


def _note(path: str | Path, state: FileState, sha256: str) -> None:
    """Notes what was in the file; where the cache cannot be written it is read again."""
    note = _note_of(path)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"state": [*state], "sha256": sha256})


def _write(path: Path, batches: Iterable[tuple[Any, Notes]], schema: Any) -> None:
    with new_file(path) as aside:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            fingerprint, notes = put_away(batches, writer.write_batch)
        facts = {"fingerprint": fingerprint, "notes": dict(notes)}
        content = of_file(aside)
    write_json(path.with_suffix(".json"), {"checksum": of_settings([content, facts]), **facts})
    _note(path, file_state(path), content)  # of now: nobody else writes here


def _opened(path: Path, tell: Callable[..., None]) -> Stored | None:
    """The whole file, mapped; None where there is none, or none that is whole, which it tells."""
    if not path.is_file():
        return None
    try:
        facts = dict(json.loads(path.with_suffix(".json").read_bytes()))
        if facts.pop("checksum") != of_settings([content_of(path), facts]):
            raise ValueError("another checksum")
        with open(path, "rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        return Stored(table, str(facts["fingerprint"]), dict(facts["notes"]), (mapped,))
    except FileNotFoundError:
        return None
    except (UserError, OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        tell("%s is damaged (%s) and is made again", path, error)
        return None

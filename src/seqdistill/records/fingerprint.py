"""Short names for content: equal content has equal fingerprints, whatever it is called.

SHA-256 in hexadecimal of a file's bytes, of a folder's names and bytes, or of settings in
canonical JSON. This module does not decide what is stale; callers compare.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from seqdistill.core.errors import UserError

MODEL_SUFFIXES = (".safetensors", ".json", ".model", ".spm", ".txt", ".tiktoken", ".jinja")
"""What decides a model's outputs: weights, configuration, tokenizer files. Read-me files, training
states and hidden files do not."""
_SETTLED_NS = 1_000_000_000
"""A file's time of change is exact to some milliseconds, on some disks to a second."""


def of_bytes(content: bytes) -> str:
    """The SHA-256 of `content`, 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class FileState(NamedTuple):
    """What changes whenever a file's content does."""

    inode: int
    size: int
    written_ns: int
    changed_ns: int

    @property
    def is_settled(self) -> bool:
        """Whether a change from now on shows in the times."""
        return time.time_ns() - max(self.written_ns, self.changed_ns) >= _SETTLED_NS


def file_state(path: str | Path) -> FileState:
    """The state of the file that the path leads to. Raises OSError where there is none."""
    found = os.stat(path)
    return FileState(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def of_file(path: str | Path) -> str:
    """The SHA-256 of the file's bytes. Raises UserError when it cannot be read.

    A file that is as it was is read once a process, however often it is asked for: models are large
    and several who read them compare. One written a moment ago may be written again without a new
    time, and is read again.
    """
    try:
        state = file_state(path)
        if not state.is_settled:
            return _digest(path)
        return _digest_once(os.path.realpath(path), state)
    except OSError as error:
        raise UserError(f"{path} must be a readable file, got: {error}; check the path") from error


def _digest(path: str | Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.lru_cache(maxsize=4096)
def _digest_once(path: str, state: FileState) -> str:
    return _digest(path)


def of_folder(path: str | Path, suffixes: tuple[str, ...] = MODEL_SUFFIXES) -> str:
    """The SHA-256 of relative names and contents, in order of name, of the files so suffixed.

    Where the folder lies, and when the files were written, does not count; hidden files and
    folders do not either. Raises UserError when no file ends that way.
    """
    folder = Path(path)
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file()
        and file.name.endswith(suffixes)
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not names:
        raise UserError(
            f"{path} must be a folder with files ending in {', '.join(suffixes)}, "
            "got none; check the path"
        )
    return of_settings({name: of_file(folder / name) for name in names})


def of_settings(settings: object) -> str:
    """The SHA-256 of JSON-able settings: the order of keys does not count, 1 and 1.0 differ.

    Raises TypeError for what JSON cannot hold and ValueError for NaN and infinities.
    """
    return of_bytes(canonical_json(settings).encode("utf-8"))


def canonical_json(settings: object) -> str:
    """JSON with sorted keys, no spaces and no escapes: one text for one value."""
    return json.dumps(
        settings, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )

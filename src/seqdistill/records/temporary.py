"""Folders for the time of a block; what a killed process left goes at the next start.

Each has a lock beside it as long as its process lives, so the next process tells those of dead ones
from those in use.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "seqdistill-temporary-"


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder, removed with all that is in it when the block ends."""
    place = Path(tempfile.gettempdir())
    _remove_left_overs(place)
    folder = place / f"{_PREFIX}{secrets.token_hex(8)}"
    lock = Path(f"{folder}.lock")
    with FileLock(lock, thread_local=False):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            lock.unlink(missing_ok=True)


@functools.cache
def _remove_left_overs(place: Path) -> None:
    """Removes the folders of dead processes, once a process."""
    for lock in place.glob(f"{_PREFIX}*.lock"):
        in_use_or_gone = contextlib.suppress(OSError, Timeout)
        with in_use_or_gone, FileLock(lock, thread_local=False, timeout=0):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()

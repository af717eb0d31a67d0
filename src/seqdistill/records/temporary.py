"""Folders for the time of a block; what a killed process left goes at the next start.

Each is locked by the kernel (flock) as long as its process lives, so the next process tells those
of dead ones from those in use. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "seqdistill-temporary-"
_NAME = re.compile(_PREFIX + "[a-z0-9_]{8}")
_SECONDS_TO_BE_LOCKED = 60.0


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """An empty folder, removed with all that is in it when the block ends."""
    _remove_left_overs(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        descriptor = os.open(name, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Path(name)
        finally:
            os.close(descriptor)


@functools.cache
def _remove_left_overs(place: Path) -> None:
    """Removes the folders of dead processes, once a process."""
    for folder in place.glob(f"{_PREFIX}*"):
        if _NAME.fullmatch(folder.name):
            with contextlib.suppress(OSError):  # gone, or somebody else's
                _remove_unless_used(folder)


def _remove_unless_used(folder: Path) -> None:
    if time.time() - folder.lstat().st_mtime < _SECONDS_TO_BE_LOCKED:
        return  # perhaps made this moment and not locked yet
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)

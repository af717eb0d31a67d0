"""One process at a time may write a folder. POSIX only.

The lock is the kernel's (flock), so a process that dies, however it dies, leaves none behind; the
file with the process's number stays and only serves the message.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from seqdistill.core.errors import DataError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder, made when missing, until the block ends.

    Raises DataError when another process holds it and when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Never unlinked: a second process could then lock the file that this one has removed.
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(
            f"{folder} must be a folder that can be written, found: {error}; give another folder"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            raise DataError(
                f"{folder} must be written by one process at a time, but process {holder} is "
                "labelling into it; wait until it has finished, or give another folder"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        yield
    finally:
        os.close(descriptor)

"""One process at a time may write a folder: the second is refused.

The lock is the system's (by filelock), so a process that dies, however it dies, leaves none behind.
The file that is locked says which process has it and goes with the lock.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from seqdistill.core.errors import UserError

INSIDE = ".lock"
"""The lock's file where it lies in the folder that it stands for."""


def lock_of(folder: Path) -> Path:
    """The file that stands for `folder`, whatever links lead there: beside it where that can be."""
    real = Path(os.path.realpath(folder))
    if real.is_dir() and not os.access(real.parent, os.W_OK):
        return real / INSIDE
    return real.with_name(f"{real.name}{INSIDE}")


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Holds the folder, which need not exist, until the block ends.

    `doing` completes the sentence "process 17 is ... FOLDER" that others get to read: while one
    holds it they raise UserError. The lock's file goes with the lock, as do folders made for it.
    """
    lock = lock_of(folder)
    made = [parent for parent in lock.parents if not parent.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with _acquired(lock, folder):
            try:
                lock.write_text(f"process {os.getpid()} is {doing}\n", "utf-8")
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # something was written there
                parent.rmdir()


def check_not_held(folder: Path) -> None:
    """Raises UserError as `held` does, when another process holds the folder at this moment."""
    lock = lock_of(folder)
    if lock.is_file() and not _holder(lock).startswith(f"process {os.getpid()} "):
        with contextlib.suppress(PermissionError), held(folder, "looking at"):
            pass


def _acquired(lock: Path, folder: Path) -> contextlib.AbstractContextManager[object]:
    try:
        return FileLock(lock, thread_local=False).acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"{folder} must be written by one process at a time, but {_holder(lock)} it; wait "
            "until it has finished, or give another folder"
        ) from None


def _holder(lock: Path) -> str:
    """What the process that holds the lock says of itself."""
    with contextlib.suppress(OSError):
        if said := lock.read_text("utf-8", "replace").strip():
            return said
    return "another process is writing"

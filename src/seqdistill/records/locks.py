"""One process at a time may write a folder: the second is refused, or waits. POSIX only.

The lock is the kernel's (flock), so a process that dies, however it dies, leaves none behind. The
file that is locked says which process has it and goes with the lock. It does not know what is
written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from seqdistill.core.errors import UserError

_LOG = logging.getLogger(__name__)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def lock_of(folder: Path) -> Path:
    """The file beside `folder` that stands for it, whatever links lead there."""
    real = Path(os.path.realpath(folder))
    return real.with_name(f"{real.name}.lock")


@contextlib.contextmanager
def exclusive_lock(folder: Path, doing: str) -> Iterator[None]:
    """Waits while another process holds `folder`, and then keeps others waiting.

    `doing` completes the sentence "process 17 is ... FOLDER" that others get to read.
    """

    def wait(descriptor: int, holder: str) -> None:
        _LOG.warning("%s %s; waiting until it has finished", holder, folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    with _held(lock_of(folder), folder, doing, wait):
        yield


@contextlib.contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Holds the folder, which need not exist, until the block ends; `doing` as in `alone`.

    Raises UserError, saying what another process does there, while one holds it.
    """
    with _held(lock_of(folder), folder, doing, _refusal(folder)):
        yield


def check_not_held(folder: Path) -> None:
    """Raises UserError as `held` does, when another process holds the folder at this moment."""
    lock = lock_of(folder)
    with contextlib.suppress(FileNotFoundError, PermissionError), open(lock, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _holder(lock).startswith(f"process {os.getpid()} "):
                _refusal(folder)(stream.fileno(), _holder(lock))


@contextlib.contextmanager
def held_inside(folder: Path, doing: str) -> Iterator[None]:
    """As `held`, by the file `.lock` in the folder, which is made, and goes if it stays empty."""
    with _held(folder / ".lock", folder, doing, _refusal(folder)):
        yield


def _refusal(folder: Path) -> Callable[[int, str], None]:
    def refuse(_descriptor: int, holder: str) -> None:
        raise UserError(
            f"{folder} must be written by one process at a time, but {holder} it; wait until "
            "it has finished, or give another folder"
        )

    return refuse


@contextlib.contextmanager
def _held(
    lock: Path, folder: Path, doing: str, when_busy: Callable[[int, str], None]
) -> Iterator[None]:
    """Holds `lock`, a file that is made for it and removed with it, as are its folders.

    Where no such file can be made, the folder itself is locked.
    """
    made = [parent for parent in lock.parents if not parent.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor, locked = _locked(lock, folder, doing, when_busy)
        try:
            yield
        finally:
            if locked == lock:
                lock.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for parent in made:
            with contextlib.suppress(OSError):  # something was written there
                parent.rmdir()


def _locked(
    lock: Path, folder: Path, doing: str, when_busy: Callable[[int, str], None]
) -> tuple[int, Path]:
    """The descriptor that holds the lock, and of what."""
    while True:
        descriptor, path = _opened(lock, folder)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                when_busy(descriptor, _holder(path))
            if path == folder:
                return descriptor, path
            if _is_still(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} is {doing}\n".encode(), 0)
                return descriptor, path
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # who held it has removed the file: another one counts now


def _opened(lock: Path, folder: Path) -> tuple[int, Path]:
    try:
        return os.open(lock, os.O_RDWR | os.O_CREAT, 0o666), lock
    except OSError as error:
        if error.errno not in _NOT_WRITABLE or not folder.is_dir():
            raise
        return os.open(folder, os.O_RDONLY), folder


def _holder(path: Path) -> str:
    """What the process that holds the lock says of itself."""
    said = path.read_text("utf-8", "replace").strip() if path.is_file() else ""
    return said or "another process is writing"


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False

"""A long result made in parts, by however many processes there are.

Each process takes a part that no other one has taken, until all are there: nobody waits at a
barrier, and the part of a process that died is made by another.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

_LOCKS = ".locks"
_ALL = "all"
_POLL_SECONDS = 0.05


def make_parts(
    folder: Path,
    names: Sequence[str],
    *,
    is_made: Callable[[int], bool],
    make: Callable[[int], None],
    is_finished: Callable[[], bool],
    finish: Callable[[], None],
) -> None:
    """Returns when every part is made, by this process or another: those of one launch or of many.

    `make` writes the file `names[index]` of `folder` in one step. Two processes never make one
    part at the same time. When all are made one process removes what killed ones were writing aside
    and calls `finish`; later ones may already write something else there. Whatever is raised ends
    this process's share alone.
    """
    missing = list(range(len(names)))
    while missing:
        busy = [index for index in missing if not _made(folder, names[index], index, is_made, make)]
        if len(busy) == len(missing):
            time.sleep(_POLL_SECONDS)
        missing = busy
    with one_at_a_time(folder):
        if not is_finished():
            _remove_torn(folder)
            finish()
    for name in (*names, _ALL):
        (folder / _LOCKS / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others hold locks there, or have removed it
        (folder / _LOCKS).rmdir()


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Makes `folder` and holds it: other processes wait here. What is done is seen by the next."""
    with _locked(folder, _ALL):
        yield


def _locked(
    folder: Path, name: str, *, timeout: float = -1.0
) -> contextlib.AbstractContextManager[object]:
    while True:
        (folder / _LOCKS).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the locks have just been removed
            return FileLock(folder / _LOCKS / name).acquire(timeout=timeout)


def _made(
    folder: Path,
    name: str,
    index: int,
    is_made: Callable[[int], bool],
    make: Callable[[int], None],
) -> bool:
    """Whether the part is there now; False while another process makes it."""
    if is_made(index):
        return True
    try:
        with _locked(folder, name, timeout=0.0):
            if not is_made(index):
                make(index)
    except Timeout:
        return is_made(index)
    return True


def remove_left_overs(folder: Path) -> None:
    """Removes locks and what was being written aside, once nobody writes there any more."""
    shutil.rmtree(folder / _LOCKS, ignore_errors=True)
    _remove_torn(folder)


def _remove_torn(folder: Path) -> None:
    for torn in folder.glob("*.partial-*"):
        torn.unlink(missing_ok=True)

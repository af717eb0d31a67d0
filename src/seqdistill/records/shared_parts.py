"""A long result made in parts, by however many processes there are.

Each process takes a part that no other one has taken, until all are there: nobody waits at a
barrier, and the part of a process that died is made by another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

_LOCKS = ".locks"
_ALL = "all"
_POLL_SECONDS = 0.05


@dataclasses.dataclass(frozen=True)
class Parts:
    """A result that is the files `names` of `folder`, and how they come to be there."""

    folder: Path
    names: Sequence[str]
    begin: Callable[[], None]
    """What a process does once, before it makes any."""
    is_made: Callable[[int], bool]
    make: Callable[[int], None]
    """Writes the file `names[index]` in one step."""
    is_finished: Callable[[], bool]
    finish: Callable[[], None]
    """What one process does once, when all are made."""


Make = Callable[[Parts], None]
"""Returns when every part is made, and the result finished."""


def make_parts(parts: Parts) -> None:
    """Returns when every part is made, by this process or another: those of one launch or of many.

    Two processes never make one part at the same time. When all are made one process removes what
    killed ones were writing aside and calls `finish`; later ones may already write something else
    there. Whatever is raised ends this process's share alone.
    """
    parts.begin()
    missing = list(range(len(parts.names)))
    while missing:
        busy = [index for index in missing if not _made(parts, index)]
        if len(busy) == len(missing):
            time.sleep(_POLL_SECONDS)
        missing = busy
    finish_parts(parts)


def make_part(parts: Parts, index: int) -> None:
    """Returns when this one part is made, by this process or another; `begin` was called."""
    while not _made(parts, index):
        time.sleep(_POLL_SECONDS)


def finish_parts(parts: Parts) -> None:
    """The last step, where all parts are made and no other process has taken it."""
    folder = parts.folder
    with one_at_a_time(folder):
        if not parts.is_finished():
            _remove_torn(folder)
            parts.finish()
    for name in (*parts.names, _ALL):
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


def _made(parts: Parts, index: int) -> bool:
    """Whether the part is there now; False while another process makes it."""
    if parts.is_made(index):
        return True
    try:
        with _locked(parts.folder, parts.names[index], timeout=0.0):
            if not parts.is_made(index):
                parts.make(index)
    except Timeout:
        return parts.is_made(index)
    return True


def remove_left_overs(folder: Path) -> None:
    """Removes locks and what was being written aside, once nobody writes there any more."""
    shutil.rmtree(folder / _LOCKS, ignore_errors=True)
    _remove_torn(folder)


def _remove_torn(folder: Path) -> None:
    for torn in folder.glob("*.partial-*"):
        torn.unlink(missing_ok=True)

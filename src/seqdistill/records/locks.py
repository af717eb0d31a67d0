"""Waits for one's turn to make a folder. POSIX only.

The lock is the kernel's (flock), so a process that dies, however it dies, leaves none behind. It
does not know what is made.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(folder: Path, doing: str) -> Iterator[None]:
    """Waits while another program holds `folder`, and then keeps others waiting.

    `doing` completes the sentence "another process ... FOLDER" of the log. The lock is a file
    beside the folder, never removed: another program could hold it already.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _LOG.warning("another process %s %s; waiting until it has finished", doing, folder)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield

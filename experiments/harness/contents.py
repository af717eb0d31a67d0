"""Fingerprints of what a cell reads, looked up once a process."""

from __future__ import annotations

import functools
from pathlib import Path

from seqdistill.records.fingerprint import of_file, of_folder


@functools.cache
def content_of(name: str) -> str:
    """The fingerprint of a file or folder; a bundled corpus, which never changes, is its name."""
    if name.startswith("bundled:"):
        return name
    return of_folder(name) if Path(name).is_dir() else of_file(name)

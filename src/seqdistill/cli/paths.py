"""The user's own files and folders: read as lines, or found writable before hours are spent.

Knows no run directory and no data format.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.records import atomic
from seqdistill.records.writable import check_writable

STANDARD_STREAM = "-"


def check_new_file(path: Path, name: str) -> None:
    """Raises UserError when `path` cannot become a file; an existing file may be replaced.

    Pipes and devices need only be writable themselves.
    """
    if path.is_dir():
        raise UserError(f"{name} must be a file, got the folder {str(path)!r}; name a file in it")
    check_writable(path if atomic.is_stream(path) else path.parent, name)


def read_lines(name: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for `-`, without line ends.

    Only LF and CRLF end a line. Raises UserError, naming file and line, for what cannot be read.
    """
    shown = "standard input" if name == STANDARD_STREAM else name
    try:
        stdin = name == STANDARD_STREAM
        content = sys.stdin.buffer.read() if stdin else Path(os.path.expanduser(name)).read_bytes()
    except OSError as error:
        raise UserError(
            f"--input must be a readable file, got {name!r}: {error.strerror}"
        ) from error
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [_decoded(line, f"{shown}:{number}") for number, line in enumerate(lines, start=1)]


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: text must be UTF-8, found byte 0x{line[error.start]:02x} at position "
            f"{error.start} of the line; convert the file"
        ) from error

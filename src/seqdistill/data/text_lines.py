"""Text files as lists of lines: UTF-8, LF or CRLF, a byte-order mark allowed, .gz unpacked.

Only LF ends a line: a U+2028, a form feed or a lone CR inside a sentence stays where it is. This
module does not know what the lines hold.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from seqdistill.core.errors import DataError
from seqdistill.data.row_errors import Offences

UTF8_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_content(path: Path) -> bytes:
    """The bytes of a file, unpacked when its name ends in .gz.

    Raises DataError when it is empty, cannot be read, or is no whole gzip file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be a readable file: {error.strerror or error}") from error
    if path.suffix.lower() == ".gz" and content:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{path} must be a whole gzip file, found: {error}; pack it again, or rename it "
                "if it is not packed"
            ) from error
    if not content:
        raise DataError(f"{path} must hold examples, but it is empty; give another file")
    return content


def read_text_lines(path: Path) -> list[str]:
    """The lines of a file without their line ends; a line end after the last line adds none.

    Raises DataError for an empty file and for bytes that are not UTF-8, with line and offset.
    """
    content = read_content(path)
    if content.startswith(UTF16_MARKS):
        raise DataError(
            f"{path} must be UTF-8, but it begins like UTF-16; convert it, for example with "
            f"iconv -f UTF-16 -t UTF-8"
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        _raise_bad_utf8(path, content)
    lines = text.removeprefix("\ufeff").split("\n")
    if not lines[-1]:
        lines.pop()
    if "\r" in text:
        lines = [line.removesuffix("\r") for line in lines]
    if not lines:  # nothing but a byte-order mark
        raise DataError(f"{path} must hold examples, but it is empty; give another file")
    return lines


def _raise_bad_utf8(path: Path, content: bytes) -> None:
    row_errors = Offences(str(path), "line")
    lines = content.split(b"\n")
    begin = 0
    for number, line in enumerate(lines, start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            row_errors.add(
                number,
                f"text must be UTF-8, found byte 0x{line[error.start]:02x} at offset "
                f"{begin + error.start} of the file ({error.start} of the line)",
            )
        begin += len(line) + 1
    row_errors.raise_if_any(len(lines) - (not lines[-1]))

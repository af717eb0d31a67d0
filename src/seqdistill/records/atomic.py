"""Files and folders that are either whole or absent, also after a kill or a power cut.

Everything is written aside in the same folder, fsynced, and renamed into place; then the folder
is fsynced, so that the new name survives too. Append-only JSON lines are the exception: each line
is flushed by itself and a torn last line is ignored when reading. So are pipes and devices, which
are written to and never replaced. Of a link, what it leads to is replaced, and the link stays. This
module does not know what the files mean.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from seqdistill.core.errors import UserError

JsonValue = None | bool | int | float | str | list[Any] | tuple[Any, ...] | dict[str, Any]
"""What JSON can say. Not recursive, because run-time checks cannot follow that."""


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replaces the file at `path` in one step; readers see the old content or the new.

    Missing parent folders are made. A pipe or device is written to as it is.
    """
    if is_stream(path):
        _write_stream(path, content)
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _aside(path) as aside:
        aside.write_bytes(content)
        _sync(aside)


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A name to write a file under, which replaces `path` in one step when the block ends.

    For libraries that write files themselves. The file may be read by whom a new file may be read
    by, whatever the library thinks; on an error it is removed.
    """
    path = Path(path)
    with _aside(path) as aside:
        yield aside
        aside.chmod(_mode_of_new_files(path.parent))
        _sync(aside)


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside `path`, which it takes when the block ends; removed on an error."""
    aside = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    except BaseException:
        _remove(aside)
        raise
    _sync(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_stream(path: str | Path) -> bool:
    """Whether `path` is a pipe, a socket or a device: what a rename would take away from others.

    Names in /dev and /proc are, whatever they lead to: behind /dev/stdout may be a file that the
    shell has open.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))


def _write_stream(path: str | Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with open(descriptor, "wb") as stream:
            stream.write(content)
    except BrokenPipeError as error:
        raise UserError(
            f"{path} must be read to its end, but its reader has closed it; write to a file instead"
        ) from error


def write_text(path: str | Path, content: str) -> None:
    """Replaces the UTF-8 file at `path` in one step; line ends are written as they are."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: str | Path, value: object) -> None:
    """Replaces the JSON file at `path` in one step by `json_text`; an error leaves the old file."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """JSON for files that people read: indented, keys in the order given, a line end.

    Raises ValueError for NaN and infinities, which JSON does not have, and TypeError for objects
    that are no JSON value.
    """
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` when the block ends without an error.

    It is built beside, as `path` + ".partial-<pid>", and removed on an error; after a kill the
    partial folder is what stays, never a half-filled `path`. An existing empty folder is replaced,
    and a link followed. Raises FileExistsError, before anything is built, when `path` is a file or
    a non-empty folder.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} must not exist yet or be empty; remove it or take another")
    with _aside(path) as aside:
        _remove(aside)  # left by a killed process whose number came round again
        aside.mkdir(parents=True)
        yield aside
        mode = _mode_of_new_files(aside)  # safetensors makes files for one user
        for folder, _, names in os.walk(aside):
            for file in (Path(folder) / name for name in names):
                file.chmod(mode)
                _sync(file)
            _sync(Path(folder))


@contextlib.contextmanager
def replaced_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of whatever folder `path` is when the block ends.

    What was there goes only when all is written; what killed processes left beside it goes, too.
    A link is followed.
    """
    path = Path(os.path.realpath(path))
    beside, before = (path.with_name(f"{path.name}.{word}") for word in ("new", "old"))
    for left_over in [beside, before, *path.parent.glob(f"{beside.name}.partial-*")]:
        shutil.rmtree(left_over, ignore_errors=True)
    with new_folder(beside) as aside:
        yield aside
    if path.exists():
        path.rename(before)
    beside.rename(path)
    _sync(path.parent)
    shutil.rmtree(before, ignore_errors=True)


def remove_left_overs(folder: Path, name: str = "*") -> None:
    """Removes what dead processes were writing aside in the folder, of names like the pattern.

    To be called by who holds the lock of what is written there: the number of a process that lives
    is no proof that it writes.
    """
    for left in folder.glob(f"{name}.partial-*"):
        number = left.name.rpartition("-")[2]
        if not number.isdecimal() or _is_another_alive(int(number)):
            continue
        _remove(left)


def _is_another_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()


def _mode_of_new_files(folder: Path) -> int:
    """What the umask makes of a file, learned from one: asking it would change it for a moment."""
    probe = folder / f".probe.partial-{os.getpid()}"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _sync(path: Path) -> None:
    """Makes a file's content, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class JsonLinesWriter:
    """Appends JSON objects to a file, one a line, each handed to the system before returning.

    A line torn by a kill is cut off when the file is opened again. Numbers that are NaN or
    infinite are written as the words NaN and Infinity, which Python reads: a log must be able to
    say that a loss was not finite. A file that was removed or replaced is not written to unseen.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = self.path.read_bytes() if self.path.exists() else b""
        if (whole := content.rfind(b"\n") + 1) != len(content):
            os.truncate(self.path, whole)
        self._num_bytes = 0
        self._stream: io.TextIOWrapper = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115

    def write(self, row: Mapping[str, object]) -> None:
        """Appends one line.

        Raises TypeError, and writes nothing, when `row` is no JSON, and UserError when the file is
        not there any more.
        """
        if not self._is_there():
            raise UserError(
                f"{self.path} must stay where it is while it is written to, but was removed or "
                "replaced; move its folder back and continue with --resume, or start again"
            )
        self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._stream.flush()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._stream.fileno()), self.path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> int:
        """How many bytes the file has, which are durable now; a second call does nothing."""
        if not self._stream.closed:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._num_bytes = os.fstat(self._stream.fileno()).st_size
            self._stream.close()
        return self._num_bytes

    def __enter__(self) -> JsonLinesWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_json_lines(path: str | Path) -> list[dict[str, JsonValue]]:
    """The rows of a JSON-lines file in order; a last line without its line end is left out.

    A missing file has no rows. Raises UserError, naming file and line, for any other line that is
    no JSON object.
    """
    path = Path(path)
    if not path.exists():
        return []
    rows: list[dict[str, JsonValue]] = []
    *lines, _torn = path.read_bytes().split(b"\n")  # what follows the last line end is torn or ""
    for number, line in enumerate(lines, start=1):
        why = ""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row, why = None, f" ({error})"
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {number}: every line must be a JSON object, got {line[:60]!r}{why}; "
                "the file was damaged or edited, restore it or remove it"
            )
        rows.append(cast("dict[str, JsonValue]", row))
    return rows

"""Can a file or folder be made at a path? Found out before hours are spent; writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from seqdistill.core.errors import UserError

_ROOM_IN_A_NAME = len(".new.partial-4194304")
"""Bytes that are added to a name while its content is written aside."""
_OF_THE_SYSTEM = (("proc",), ("sys",))
"""Folders at the root that look writable, to root at least, and in which nothing can be made."""


def check_writable(path: Path, name: str) -> None:
    """Raises UserError when nothing can be made at `path`, which the user knows as `name`.

    Looks at `path` itself, or at the closest folder above that exists. Links are followed.
    """
    if "\0" in str(path):
        raise UserError(
            f"{name} must be a path, got {str(path)!r}, which has a NUL character; name another "
            "place"
        )
    existing = path
    while not _exists(existing, path, name):
        existing = existing.parent
    if existing != path and not existing.is_dir():
        raise UserError(
            f"{name} must lie in a folder, got {str(path)!r}, but {str(existing)!r} is a file; "
            "name another place"
        )
    of_the_system = existing.is_dir() and existing.resolve().parts[1:2] in _OF_THE_SYSTEM
    if of_the_system or not os.access(existing, os.W_OK):
        raise UserError(
            f"{name} must be writable, got {str(path)!r}, but {str(existing)!r} cannot be written "
            "to; change its permissions or name another place"
        )
    _check_length(path, existing, name)


def _exists(place: Path, path: Path, name: str) -> bool:
    """Whether something is there. Raises UserError for a link to nothing, which is and is not."""
    try:
        place.stat()
    except PermissionError:
        raise
    except OSError:  # not there, or of a name that is too long, which is told below
        if os.path.islink(place):
            raise UserError(
                f"{name} must be writable, got {str(path)!r}, but {str(place)!r} is a link to "
                f"{os.readlink(place)!r}, which is not there; remove the link, or make what it "
                "leads to"
            ) from None
        return False
    return True


def _check_length(path: Path, existing: Path, name: str) -> None:
    longest = os.pathconf(existing, "PC_NAME_MAX") - _ROOM_IN_A_NAME
    new = [path.name] if existing == path else path.relative_to(existing).parts
    for part in new:
        if len(os.fsencode(part)) > longest:
            raise UserError(
                f"{name} must have names of at most {longest} bytes, got one of "
                f"{len(os.fsencode(part))}: {part[:40]!r}...; shorten it"
            )
    longest = os.pathconf(existing, "PC_PATH_MAX") - 256  # of files in the folder
    if len(os.fsencode(os.path.abspath(path))) > longest:
        raise UserError(
            f"{name} must be a path of at most {longest} bytes, got one of "
            f"{len(os.fsencode(os.path.abspath(path)))}; name another place"
        )

"""Checksums of files that will be read again: beside them, in one file a folder.

    checksums.json      {"sha256": {"model.safetensors": "9f86d0...", ...}}

A reader learns what is wrong with a folder before it believes any of it. What to do then is the
caller's to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from seqdistill.core.errors import DataError, UserError
from seqdistill.records import atomic
from seqdistill.records.fingerprint import of_file

CHECKSUMS = "checksums.json"
_UNLISTED = (CHECKSUMS, "chat_template.jinja", "README.md")
"""Itself, and what people write into model folders."""


def write_checksums(folder: Path) -> None:
    """Writes the checksums of the files in the folder but for those that users edit."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    sums = {path.name: of_file(path) for path in files if path.name not in _UNLISTED}
    atomic.write_json(folder / CHECKSUMS, {"sha256": sums})


def damage(folder: Path) -> str | None:
    """What is wrong with the first listed file that is not as it was; None when all are.

    Such as "model.safetensors does not match its checksum". Files that are not listed do not count.
    """
    try:
        listed = json.loads((folder / CHECKSUMS).read_bytes())["sha256"]
        sums = {str(name): str(wanted) for name, wanted in listed.items()}
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{CHECKSUMS} is damaged"
    return damage_of(folder, sums)


def damage_of(folder: Path, sums: Mapping[str, str]) -> str | None:
    """As `damage`, of these names and checksums."""
    for name, wanted in sums.items():
        path = folder / name
        if not os.path.isfile(path):
            return f"{name} is missing"
        if of_file(path) != wanted:
            return f"{name} does not match its checksum"
    return None


def check_model_folder(folder: str | Path) -> None:
    """Raises UserError when a model folder that has checksums is not as it was saved.

    Without them, as in folders of other programs, there is nothing to compare.
    """
    if not os.path.isfile(Path(folder) / CHECKSUMS):
        return
    if (found := damage(Path(folder))) is not None:
        raise UserError(
            f"{folder} must hold the model that was saved in it, but {found}; restore the file, "
            "make a run's student again by `seqdistill train ... --resume`, or, if it was changed "
            f"on purpose, remove {Path(folder) / CHECKSUMS}"
        )


def own_file(folder: Path, name: str) -> Path:
    """The path of the file called `name` in `folder`, existing or not.

    Raises DataError for a name that leads elsewhere: a path, `..`, or a link out of the folder.
    """
    path = folder / name
    is_plain = name not in ("", ".", "..") and "\0" not in name and "\\" not in name
    if not is_plain or Path(name).name != name:
        raise DataError(
            f"the manifest of {folder} must name files of that folder alone, but names {name!r}; "
            "take the folder from whom you trust, or have it made again"
        )
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise DataError(
            f"{path} must be a file of its own folder, but is a link to {path.resolve()}; "
            "copy the file there"
        )
    return path

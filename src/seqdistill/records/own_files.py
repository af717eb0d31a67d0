"""Files that a folder's manifest names: of that folder alone, since manifests may be foreign."""

from __future__ import annotations

from pathlib import Path

from seqdistill.core.errors import DataError


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

"""Can a file or folder be made at a path? Found out before hours are spent; writes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from seqdistill.core.errors import UserError


def check_writable(path: Path, name: str) -> None:
    """Raises UserError when nothing can be made at `path`, which the user knows as `name`.

    Looks at `path` itself, or at the closest folder above that exists. Links are followed.
    """
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    is_broken_link = existing.is_symlink() and not os.path.exists(existing)
    if is_broken_link or (existing != path and not existing.is_dir()):
        kind = "a link that leads nowhere" if is_broken_link else "a file"
        raise UserError(
            f"{name} must lie in a folder, got {str(path)!r}, but {str(existing)!r} is {kind}; "
            "name another place"
        )
    if not os.access(existing, os.W_OK):
        raise UserError(
            f"{name} must be writable, got {str(path)!r}, but {str(existing)!r} cannot be written "
            "to; change its permissions or name another place"
        )

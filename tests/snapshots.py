"""Texts that a test keeps whole in a file beside it, so that wording stands in one place."""

from __future__ import annotations

import os
from pathlib import Path


def assert_as_kept(text: str, path: Path) -> None:
    """The text is that of the file. With WRITE_SNAPSHOTS=1 the file is written instead."""
    if os.environ.get("WRITE_SNAPSHOTS") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text("utf-8"), (
        f"the text differs from {path.name}; where that is meant, run with WRITE_SNAPSHOTS=1 and "
        "read the difference"
    )

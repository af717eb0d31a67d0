"""What a mistyped path may have meant: its neighbours."""

from __future__ import annotations

import difflib
from pathlib import Path


def sibling_hint(path: Path) -> str:
    """The sentence ' Did you mean X?' for what lies beside `path` under the closest name, or ''."""
    try:
        names = [sibling.name for sibling in path.parent.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return f" There is no folder {str(path.parent)!r}."
    except (OSError, ValueError):  # not to be read, or no name of a folder
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f" Did you mean {str(path.with_name(close[0]))!r}?" if close else ""

"""What a name that leads to no path may be: a slip in that of a neighbour, or one on the hub."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]+")


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


def may_be_hub_dataset(name: str) -> bool:
    """Whether `name`, which is no path, is worth asking the hub about.

    Not what looks like a file (an extension in letters, a folder that is there) or is nearly the
    name of one: the user wants to hear of the slip at once.
    """
    path = Path(name)
    if HUB_NAME.fullmatch(name) is None or _FILE_SUFFIX.fullmatch(path.suffix):
        return False
    return ("/" not in name and not sibling_hint(path)) or not os.path.exists(path.parent)

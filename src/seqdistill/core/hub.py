"""What a name that leads to no path may be: one on the hub, or a slip in that of a neighbour."""

from __future__ import annotations

import difflib
import functools
import os
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]+")
_HUB_SECONDS = 5.0
_MODEL_CONFIGS = ("config.json", "adapter_config.json")
_MODEL_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")


@functools.cache
def hub_answers() -> bool:
    """Whether the hub's server takes connections; asked once a process, for five seconds at most.

    Where there is none, the hub's own client would try for half a minute for every file.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    found: list[bool] = []
    # In a thread, because looking up a host's name has no time limit of its own.
    asking = threading.Thread(target=lambda: found.append(_connects()), daemon=True)
    asking.start()
    asking.join(_HUB_SECONDS)
    return found == [True]


def _connects() -> bool:
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        if address.scheme in urllib.request.getproxies():  # only the proxy knows
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=_HUB_SECONDS).close()
            return True
        port = address.port or (443 if address.scheme == "https" else 80)
        with socket.create_connection((address.hostname or "", port), timeout=_HUB_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def is_cached(name: str) -> bool:
    """Whether a model of that hub name was loaded on this machine before."""
    return _has_any(name, _MODEL_CONFIGS)


def must_be_downloaded(name: str) -> bool:
    """Whether a model's weights are on the hub alone."""
    return not Path(name).exists() and not _has_any(name, _MODEL_WEIGHTS)


def _has_any(name: str, files: tuple[str, ...]) -> bool:
    """Whether one of the files of that hub name is in the cache."""
    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in files)
    except HFValidationError:  # no name of the hub's
        return False


def nowhere(name: str) -> str | None:
    """Why a model of that name cannot be had, as in "there is no ..."; None where it may be."""
    if Path(name).exists() or is_cached(name) or hub_answers():
        return None
    return (
        f"there is no folder {name!r}, nothing of that name in the hub's cache, and no connection "
        f"to {constants.ENDPOINT}"
    )


def only_local(name: str, *, trust_remote_code: bool) -> bool:
    """Whether files can be this machine's alone: a folder's, or those in the hub's cache.

    Code that a trusted folder names may lie on the hub.
    """
    return (Path(name).exists() and not trust_remote_code) or not hub_answers()


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

"""Whether the hub can be asked, found out once and quickly."""

from __future__ import annotations

import functools
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from huggingface_hub import constants

_HUB_SECONDS = 5.0


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


def only_local(name: str, *, trust_remote_code: bool) -> bool:
    """Whether files can be this machine's alone: a folder's, or those in the hub's cache.

    Code that a trusted folder names may lie on the hub.
    """
    return (Path(name).exists() and not trust_remote_code) or not hub_answers()

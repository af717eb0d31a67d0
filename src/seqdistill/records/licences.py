"""Which licence a model or a data set says it has: the one place that knows where that is written.

The card (`README.md`) of a folder or of the hub, else a licence file beside. Says what is written,
not what it permits.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from seqdistill.core.hub import hub_answers

_CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_FILES = ("LICENSE*", "LICENCE*", "COPYING*")


def licence_of(name: str, kind: Literal["model", "dataset"]) -> str | None:
    """What the model or data of that name says: a folder, a file, line-aligned files or a hub name.

    None where nothing is said, or cannot be had.
    """
    path = Path(name.partition(",")[0])
    if path.exists():
        return _licence_in(path if path.is_dir() else path.parent)
    try:
        card = hf_hub_download(
            name.partition(":")[0], _CARD, repo_type=kind, local_files_only=not hub_answers()
        )
    except (HfHubHTTPError, HFValidationError, OSError):
        return None
    return licence_on_card(Path(card).read_text("utf-8", errors="replace"))


def _licence_in(folder: Path) -> str | None:
    card = folder / _CARD
    if card.is_file() and (said := licence_on_card(card.read_text("utf-8", errors="replace"))):
        return said
    files = sorted(path.name for pattern in _FILES for path in folder.glob(pattern))
    return f"see {files[0]}" if files else None


def licence_on_card(text: str) -> str | None:
    """The `license` in the YAML that a card begins with; its name where it is none of the hub's."""
    found = _FRONT_MATTER.match(text)
    try:
        said = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return None
    if not isinstance(said, dict) or not (licence := said.get("license")):
        return None
    if licence == "other" and said.get("license_name"):
        return str(said["license_name"])
    return ", ".join(map(str, licence)) if isinstance(licence, list) else str(licence)

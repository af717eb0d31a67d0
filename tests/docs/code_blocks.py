"""The code that a Markdown page shows, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = (
    "README.md",
    *(
        str(found.relative_to(ROOT))
        for folder in ("guides", "how-to")
        for found in sorted((ROOT / "docs" / folder).glob("*.md"))
    ),
)
"""The pages whose commands and code are run."""


def blocks(page: str, language: str) -> list[str]:
    """The page's fenced blocks of this language, in order; `page` is a path below the root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [code for name, code in _BLOCK.findall(text) if name == language]

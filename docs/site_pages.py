"""Pages of the documentation site that are made when it is built: the table of recipe keys."""

from __future__ import annotations

from typing import Any

from mkdocs.structure.files import File, Files

from docs.recipe_keys import recipe_keys

KEYS = "reference/recipe-keys.md"


def on_files(files: Files, config: Any) -> Files:
    """Adds the page of recipe keys, taken from the schema's own docstrings."""
    files.append(File.generated(config, KEYS, content=recipe_keys()))
    return files

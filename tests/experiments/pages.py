"""Reads pages as tests do: the files written for given rows, the cells of a table's line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path


def files_written(
    folder: Path, name: str, content: Mapping[str, object], write_page: Callable[[Path], None]
) -> dict[str, bytes]:
    """Every file that the page of `name`.json makes of the content, by its path in the folder."""
    folder.mkdir(exist_ok=True)
    source = folder / f"{name}.json"
    source.write_text(json.dumps(content), encoding="utf-8")
    write_page(source)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != source
    }


def cells(table: str, system: str) -> list[str]:
    """The cells of one system's line of a Markdown table, after the first."""
    (line,) = [line for line in table.splitlines() if f"| {system} |" in line.replace("**", "")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]

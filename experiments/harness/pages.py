"""Writes a page of results with its plots beside the rows it is made of, and is its command.

What the page says is an experiment's own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from seqdistill.core.errors import UserError
from seqdistill.records import atomic

Pictures = Mapping[tuple[str, str], str]
"""Task and plot -> the path of the plot, as seen from the page."""


def write_pictured(
    path: Path,
    images: Mapping[tuple[str, str], bytes],
    *,
    stems: Mapping[str, str],
    rendered: Callable[[Pictures], str],
) -> None:
    """Writes `NAME.md` and the folder `NAME` of plots (SVG) beside the results `NAME.json`.

    `stems` are the names of tasks as files have them. The folder is replaced as a whole, so that no
    plot outlives its rows.
    """
    names = {key: f"{stems[key[0]]}_{key[1]}.svg" for key in images}
    folder = path.with_suffix("")
    with atomic.replaced_folder(folder) as plots:
        for key, image in images.items():
            atomic.write_bytes(plots / names[key], image)
    pictures = {key: f"{folder.name}/{name}" for key, name in names.items()}
    atomic.write_text(path.with_suffix(".md"), rendered(pictures))


def numbered_page(
    title: str, origin: str, findings: tuple[str, ...], parts: tuple[tuple[str, str], ...]
) -> str:
    """The page as Markdown: title, where it comes from, numbered findings, headed parts."""
    lines = [f"# {title}", "", f"<!-- {origin} -->", ""]
    lines += [f"{number}. {text}" for number, text in enumerate(findings, start=1)]
    for heading, text in parts:
        lines += ["", f"## {heading}", "", text]
    return "\n".join(lines) + "\n"


def exits(command: Callable[[], None]) -> None:
    """Runs a command; a mistake of the user's is one sentence and exit code 2."""
    try:
        command()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

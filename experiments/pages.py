"""Fills a page's template and writes it with its pictures beside the rows it is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from seqdistill.core.errors import UserError
from seqdistill.records import atomic

VERSIONS = ("seqdistill", "torch", "transformers", "ctranslate2", "sacrebleu")


def write_pictured(
    path: Path, template: Path, pictures: Mapping[str, bytes], values: Mapping[str, object]
) -> None:
    """Writes `NAME.md` and the folder `NAME` of plots beside `NAME.parquet`.

    The folder is replaced as a whole, so that no plot outlives its rows.
    """
    folder = path.with_suffix("")
    with atomic.replaced_folder(folder) as plots:
        for name, image in pictures.items():
            atomic.write_bytes(plots / f"{name}.svg", image)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    text = environment.from_string(template.read_text("utf-8")).render(**values)
    atomic.write_text(path.with_suffix(".md"), text.rstrip("\n") + "\n")


def exits(command: Callable[[], None]) -> None:
    """Runs a command; a mistake of the user's is one sentence and exit code 2."""
    try:
        command()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

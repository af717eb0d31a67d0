"""Standard output as a place for tables and sentences; every line that holds a path stays whole."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.console import Console

PLAIN_WIDTH = 100
"""Columns of a table that goes into a pipe or file."""


def is_main_rank() -> bool:
    """Whether this process may print: it is alone, or the first of a group."""
    return os.environ.get("RANK", "0") == "0"


def console_on(*, stderr: bool = False) -> Console:
    """A console that takes texts literally; 100 columns wide where there is no terminal."""
    console = Console(
        stderr=stderr, markup=False, highlight=False, emoji=False, quiet=not is_main_rank()
    )
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def echo(line: str = "") -> None:
    """Prints one line, which only the terminal may wrap."""
    if is_main_rank():
        typer.echo(line)


def say_aligned(rows: Sequence[tuple[str, str]]) -> None:
    """Prints (label, text) pairs, the texts under each other."""
    width = max((len(label) for label, _ in rows), default=0)
    for label, text in rows:
        echo(f"{label:<{width}}  {text}".rstrip())


def show_plan(lines: Sequence[tuple[str, str]]) -> None:
    """Prints what a dry run found."""
    say_aligned(lines)
    echo("Nothing was written.")


def program() -> str:
    """What the user types to start this program, as it can be typed again."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return "python -m seqdistill"
    if started.name == "seqdistill" and shutil.which("seqdistill") is None:
        return str(started)  # in a virtual environment that is not activated
    return "seqdistill"


def quoted(path: Path | str) -> str:
    """A path or setting as one word of a shell command."""
    return shlex.quote(str(path))

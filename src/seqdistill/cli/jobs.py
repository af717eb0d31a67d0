"""The frame around every command that computes: quiet libraries, kept memory, progress on screen.

The command imports what it runs inside the frame, since the first two must come before torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from seqdistill.cli.progress import progress_on
from seqdistill.cli.quiet import tame_libraries
from seqdistill.cli.screen import is_main_rank
from seqdistill.core.allocator import keep_freed_memory
from seqdistill.core.progress import NoProgress, Progress

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what the libraries do.")]


@contextlib.contextmanager
def job(console: Console, *, verbose: bool, transient: bool = False) -> Iterator[Progress]:
    """The progress to hand down; `transient` bars leave no trace when they are done."""
    tame_libraries(verbose=verbose)
    keep_freed_memory()
    if not is_main_rank():
        yield NoProgress()
        return
    with progress_on(console, transient=transient) as progress:
        yield progress

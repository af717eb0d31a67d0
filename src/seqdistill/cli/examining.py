"""The command `doctor`: what would go wrong with a recipe, before hours are spent on it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from seqdistill.cli.failures import USER_ERROR
from seqdistill.cli.options import Arguments, TrustRemoteCode, Verbose
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo
from seqdistill.cli.training import RecipeWord, recipe_of

if TYPE_CHECKING:
    from seqdistill.jobs.doctor import Examination, SeenRow
    from seqdistill.jobs.findings import Finding

_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}
_OPEN, _CLOSE = "⟦", "⟧"
"""Around what is learned, where nothing has a colour."""


def doctor(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Say what would go wrong with a recipe, and what to change, before it is trained.

    Looks at tokenizers, ends of sequences, chat templates, lengths, splits, dtype, memory, engines
    and licences, does all that training checks before its first step, and shows five rows as the
    student sees them. Trains nothing and writes nothing. The exit code is 0 where nothing would
    fail, warnings or not, and 2 where something would.
    """
    chosen = recipe_of(None, [recipe, *(settings or [])], None, None, trust_remote_code)
    with job(console_on(stderr=True), verbose=verbose, transient=True):
        from seqdistill.jobs.doctor import examine

        examined = examine(chosen)
    if as_json:
        content = {"would_fail": examined.would_fail, **dataclasses.asdict(examined)}
        echo(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _show(examined, console_on())
    if examined.would_fail:
        raise typer.Exit(USER_ERROR)


def _show(examined: Examination, console: Console) -> None:
    width = max(len(finding.subject) for finding in examined.findings)
    for finding in examined.findings:
        _show_finding(finding, width, console)
    if examined.rows:
        echo()
        console.print(_row_heading(console))
    for row in examined.rows:
        console.print(_row(row, console), soft_wrap=True)
    echo()
    counts = {
        level: sum(finding.level == level for finding in examined.findings)
        for level in ("error", "warning")
    }
    told = ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items())
    verdict = "the run would fail" if examined.would_fail else "nothing would fail"
    echo(f"{told}: {verdict}")


def _show_finding(finding: Finding, width: int, console: Console) -> None:
    label = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
    line = Text.assemble(label, f"{finding.subject:<{width}}  {finding.found}")
    console.print(line, soft_wrap=True)
    for name, text in (("happens", finding.happens), ("change", finding.change)):
        if text:
            console.print(f"{'':<{8 + width}}  {name}: {text}", soft_wrap=True)


def _row_heading(console: Console) -> Text:
    if console.is_terminal:
        return Text.assemble("Rows as the student sees them: read, ", ("learned", "bold green"))
    return Text(f"Rows as the student sees them: read, {_OPEN}learned{_CLOSE}")


def _row(row: SeenRow, console: Console) -> Text:
    line = Text(f"{row.id}: ")
    for place, (tokens, is_learned) in enumerate(row.pieces):
        line.append(" " if place else "")
        if console.is_terminal:
            line.append(tokens, style="bold green" if is_learned else "dim")
        else:
            line.append(f"{_OPEN}{tokens}{_CLOSE}" if is_learned else tokens)
    return line

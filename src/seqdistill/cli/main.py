"""The program `seqdistill`: its commands under one name.

Imports nothing heavy: each command imports what it runs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

import seqdistill
from seqdistill.cli import examining, exporting, generating, measuring, scoring, sweeping, training
from seqdistill.cli.failures import ExplainingGroup
from seqdistill.cli.options import ANY_OPTION
from seqdistill.cli.quiet import make_streams_safe
from seqdistill.cli.recipes import recipes
from seqdistill.cli.screen import echo, say_aligned

_MAKE, _LOOK = "Make students", "Use and measure them"

app = typer.Typer(
    name="seqdistill",
    cls=ExplainingGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # Both habits: --num_beams and --num-beams are one option.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
    # A traceback is for us: as Python writes it, and without the values of variables.
    pretty_exceptions_enable=False,
)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(training.demo)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(examining.doctor)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(training.train)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(training.label)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(scoring.score)
app.command(rich_help_panel=_MAKE)(sweeping.sweep)
app.command(context_settings=ANY_OPTION, rich_help_panel=_MAKE)(sweeping.race)
app.add_typer(recipes, name="recipe", rich_help_panel=_MAKE)
app.command(rich_help_panel=_LOOK)(measuring.evaluate)
app.command(rich_help_panel=_LOOK)(measuring.report)
app.command(context_settings=ANY_OPTION, rich_help_panel=_LOOK)(measuring.bench)
app.command(rich_help_panel=_LOOK)(generating.generate)
app.command(rich_help_panel=_LOOK)(exporting.export)


@app.command(rich_help_panel=_LOOK)
def env() -> None:
    """Versions and machine, for bug reports."""
    from seqdistill.records.environment import environment_facts

    facts = environment_facts()
    rows = [(name, str(value)) for name, value in facts["versions"].items()]
    machine = facts["machine"]
    rows += [(name, str(value)) for name, value in machine.items() if name != "memory_bytes"]
    rows.append(("memory", f"{int(machine['memory_bytes']) / 2**30:.1f} GiB"))
    say_aligned(rows)


def _show_version(wanted: bool) -> bool:
    if wanted:
        echo(f"seqdistill {seqdistill.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def seqdistill_command(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Distil a large sequence model into a small, fast one, and prove what was kept."""


def run() -> None:
    """The entry point: runs the command of this process's arguments and exits."""
    make_streams_safe()
    app(prog_name="seqdistill")

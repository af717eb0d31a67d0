"""The command `sweep`: many recipes x settings x seeds, measured into one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqdistill.cli.options import Verbose, argument, expanded
from seqdistill.cli.quiet import tame_libraries
from seqdistill.cli.screen import echo, program, quoted, say_aligned
from seqdistill.core.errors import UserError
from seqdistill.records.writable import check_writable


def sweep(
    file: Annotated[
        Path,
        argument(
            "FILE",
            "A YAML file: start, methods, settings, grid or cells, seeds, choose.",
            callback=expanded,
        ),
    ],
    *,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, help="Students trained at once; they share the cores."),
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the cells, and write nothing.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Train and measure methods x settings x seeds, and compare them on one page.

    Settings under `choose` are chosen by each method on dev, with one seed and equal budgets.
    The same command goes on where it was stopped: finished cells are kept, unfinished runs
    resume. A cell that fails is noted, and the others go on.
    """
    from seqdistill.recipe.sweep_schema import read_sweep

    plan = read_sweep(file)
    check_writable(Path(plan.output_dir), "output_dir")
    tame_libraries(verbose=verbose)
    from seqdistill.jobs.sweep import planned_cells, run_sweep

    if dry_run:
        for name, cell in planned_cells(plan).items():
            echo(f"{cell.key}  {name}")
        if plan.choose:
            kept = len(plan.systems) * len(plan.combinations()) * len(plan.seeds)
            echo(f"{kept} of them are tested, once {', '.join(plan.choose)} is chosen on dev")
        return
    done = run_sweep(plan, jobs=jobs, tell=echo)
    echo()
    say_aligned([("rows", str(done.rows)), ("page", str(done.page))])
    if done.failed:
        raise UserError(
            f"every cell must come to its end, but {len(done.failed)} failed "
            f"({'; '.join(f'{name}: {error}' for name, error in done.failed.items())}); "
            f"fix the cause and run it again: {program()} sweep {quoted(file)}"
        )

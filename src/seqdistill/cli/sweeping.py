"""The commands that train many students: `sweep` measures all, `race` keeps the best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from seqdistill.cli.options import (
    Arguments,
    OutputDir,
    Seed,
    TrustRemoteCode,
    Verbose,
    argument,
    expanded,
    option,
)
from seqdistill.cli.quiet import tame_libraries
from seqdistill.cli.screen import echo, program, quoted, say_aligned, show_plan
from seqdistill.cli.training import DryRun, RecipeWord, recipe_of
from seqdistill.core.errors import UserError
from seqdistill.records.writable import check_writable

Jobs = Annotated[
    int,
    typer.Option("--jobs", "-j", min=1, help="Students trained at once; they share the cores."),
]


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
    jobs: Jobs = 1,
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


def race(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    minutes: Annotated[
        float | None, option("--minutes", "M", "The budget: so long on this machine, about.")
    ] = None,
    updates: Annotated[
        int | None, option("--updates", "N", "The budget: so many training steps in all.", min=1)
    ] = None,
    methods: Annotated[
        str | None, option("--methods", "A,B,...", "Who takes part, in the place of ten methods.")
    ] = None,
    jobs: Jobs = 1,
    output_dir: OutputDir = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Find the method and learning rate for your data, under a budget, and say why.

    Methods x learning rates train a little; the best third by training.eval_metric on data.dev
    goes on for three times as long, until a few come to the end and are measured on data.test.
    Without a budget these train for training.steps. The same command goes on where it was stopped.
    """
    if minutes is not None and updates is not None:
        raise UserError("the budget must be --minutes or --updates, got both; leave one out")
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"--minutes must be a number above 0, got {minutes:g}; give another")
    chosen = recipe_of(
        None, [recipe, *(settings or [])], output_dir, seed, trust_remote_code, purpose="race"
    )
    tame_libraries(verbose=verbose)
    from seqdistill.jobs.race import run_race
    from seqdistill.jobs.race_plan import Race, plan_race

    names = tuple(name.strip() for name in methods.split(",")) if methods else ()
    about = Race(chosen, names, minutes, updates)
    check_writable(about.folder, "output_dir")
    plan = plan_race(about, jobs=jobs)
    lines = [("writes to", str(about.folder)), *plan.lines()]
    if dry_run:
        show_plan(lines)
        return
    say_aligned(lines)
    done = run_race(about, plan, jobs=jobs, tell=echo)
    echo()
    for name, error in done.failed.items():
        echo(f"dropped out: {name}: {error}")
    for sentence in done.words:
        echo(sentence)
    again = f"{program()} train {quoted(done.recipe)}"
    say_aligned(
        [
            ("student", str(done.student)),
            ("recipe", f"{done.recipe}  ({again})"),
            ("rows", str(done.rows)),
            ("page", str(done.page)),
        ]
    )

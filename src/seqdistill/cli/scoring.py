"""The command `score`: training data with a column of what a model makes of each row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqdistill.cli.options import (
    Arguments,
    Seed,
    TrustRemoteCode,
    Verbose,
    check_new_file,
    expanded,
    option,
    read_words,
)
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo, program, quoted, say_aligned
from seqdistill.cli.training import DryRun, RecipeWord, recipe_of
from seqdistill.core.errors import UserError


def score(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    pass_rate: Annotated[
        bool,
        typer.Option(
            "--pass-rate",
            help="The fraction of the model's rollouts of each prompt that pass: the columns "
            "pass_rate and num_rollouts.",
        ),
    ] = False,
    output_file: Annotated[
        Path | None,
        option(
            "--output -o",
            "FILE",
            "Where the rows are written: .parquet, .jsonl or .tsv.",
            callback=expanded,
        ),
    ] = None,
    model: Annotated[
        Literal["student", "teacher"],
        option("--model", "NAME", "Whose rollouts: student or teacher, as the recipe names them."),
    ] = "student",
    rollouts: Annotated[int, option("--rollouts", "K", "Of each prompt.", min=1)] = 8,
    seed: Seed = None,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Write the training data again with a column that says how hard each prompt is for a model.

    The recipe needs data.train, student.model (or teacher.model) and objective.reward.function,
    such as exact_answer: what gets objective.reward.pass_threshold passes. Rollouts are sampled as
    sequences.rollouts says and kept in rollouts/ beside the runs: stopped at any moment, the same
    command continues, and with another reward or threshold it samples nothing anew. Train on the
    result with data.extra_columns=[pass_rate] and the token weight pass_rate, as the preset paced
    does.
    """
    if not pass_rate:
        raise UserError("score must be told what to write, got nothing; give --pass-rate")
    if output_file is None:
        raise UserError("--output must name the file to write, got none; add -o scored.parquet")
    words = [recipe, *(settings or [])]
    chosen = recipe_of(None, words, None, seed, trust_remote_code, purpose="score")
    check_new_file(output_file, "--output")
    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.assembly.pass_rates import PassRates
        from seqdistill.jobs.score import plan_pass_rates, score_pass_rates

        wanted = PassRates(model, rollouts)
        if dry_run:
            lines = plan_pass_rates(chosen, wanted, output_file)
        else:
            found = score_pass_rates(chosen, wanted, output_file, progress=progress)
    if dry_run:
        say_aligned(lines)
        echo("Nothing was written.")
        return
    echo()
    name = read_words(words).positional[0]
    use = f"{program()} train {name} data.train={quoted(output_file)} ..."
    say_aligned([("pass rates", str(found)), ("rows", str(output_file)), ("train on them", use)])

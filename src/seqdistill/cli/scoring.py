"""The command `score`: what a model makes of the training data, kept to be trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from seqdistill.cli.options import (
    Arguments,
    Ray,
    Seed,
    TrustRemoteCode,
    Verbose,
    Workers,
    check_new_file,
    check_ray,
    expanded,
    option,
    read_words,
)
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo, program, quoted, say_aligned, show_plan
from seqdistill.cli.training import DryRun, RecipeWord, recipe_of
from seqdistill.core.errors import UserError

if TYPE_CHECKING:
    from seqdistill.recipe.loading import Purpose


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
    teacher_scores: Annotated[
        bool,
        typer.Option(
            "--teacher-scores",
            help="What the teacher says of every target token, as the recipe's teacher.scores has "
            "it kept, for training without a teacher.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        option(
            "--output -o",
            "PATH",
            "Where it is written: rows with pass rates to a .parquet, .jsonl or .tsv file, the "
            "teacher's scores to a folder (teacher.kept_scores).",
            callback=expanded,
        ),
    ] = None,
    model: Annotated[
        Literal["student", "teacher"],
        option("--model", "NAME", "Whose rollouts: student or teacher, as the recipe names them."),
    ] = "student",
    rollouts: Annotated[int, option("--rollouts", "K", "Of each prompt.", min=1)] = 8,
    seed: Seed = None,
    workers: Workers = None,
    ray: Ray = None,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Keep what a model makes of the training data: pass rates of prompts, or a teacher's scores.

    Pass rates say how hard each prompt is for a model: a column of the rows that are written again.
    The recipe needs data.train, student.model (or teacher.model) and objective.reward.function,
    such as exact_answer: what gets objective.reward.pass_threshold passes. Rollouts are sampled as
    sequences.rollouts says and kept in rollouts/ beside the runs: stopped at any moment, the same
    command continues, and with another reward or threshold it samples nothing anew. Train on the
    result with data.extra_columns=[pass_rate] and the token weight pass_rate, as the preset paced
    does.

    A teacher's scores of every target token are for training without it. The recipe is the one to
    train, with teacher.scores=top_k or sampled, or with teacher.cache_hidden_states. Several
    processes (torchrun) or Ray workers share the work; stopped at any moment, the same command
    continues.
    """
    check_ray(workers, ray)
    words = [recipe, *(settings or [])]
    if pass_rate == teacher_scores:
        got = "both" if pass_rate else "nothing"
        raise UserError(
            f"score must be told one thing to make, got {got}; give --pass-rate or --teacher-scores"
        )
    if pass_rate and output is None:
        raise UserError("--output must name the file to write, got none; add -o scored.parquet")
    named = [f"teacher.kept_scores={json.dumps(str(output))}"] if teacher_scores and output else []
    purpose: Purpose = "score" if pass_rate else "train"
    chosen = recipe_of(None, [*words, *named], None, seed, trust_remote_code, purpose=purpose)
    rows = cast("Path", output)  # which are for pass rates alone
    if pass_rate:
        check_new_file(rows, "--output")
    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.assembly.pass_rates import PassRates
        from seqdistill.jobs.ray_workers import RayWorkers
        from seqdistill.jobs.score import (
            plan_pass_rates,
            plan_teacher_scores,
            score_pass_rates,
            score_teacher,
        )

        wanted = PassRates(model, rollouts)
        by = None if workers is None else RayWorkers(workers, ray)
        if dry_run and pass_rate:
            plan = plan_pass_rates(chosen, wanted, rows)
        elif dry_run:
            plan = plan_teacher_scores(chosen)
        elif pass_rate:
            found = score_pass_rates(chosen, wanted, rows, progress=progress, workers=by)
        else:
            folder = score_teacher(chosen, progress=progress, workers=by)
    if dry_run:
        show_plan(plan)
        return
    echo()
    use = f"{program()} train {read_words(words).positional[0]}"
    if pass_rate:
        made = [("pass rates", str(found)), ("rows", str(rows))]
        use = f"{use} data.train={quoted(rows)} ..."
    else:
        made = [("teacher's scores", str(folder))]
        needs_teacher = (
            chosen.teacher.sparse_form is None or chosen.student.init == "teacher_layers"
        )
        free = "" if needs_teacher else "; teacher.model may be left out"
        kept = f"teacher.kept_scores={quoted(folder)}"
        use = f"{use} ... with the same settings and {kept}{free}"
    say_aligned([*made, ("train on them", use)])

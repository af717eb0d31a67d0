"""The commands that make students: `demo`, `train`, `label`; with `--dry-run` they only plan.

They read the recipe before anything heavy is imported, so that a mistake is reported at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqdistill.cli.jobs import Verbose, job
from seqdistill.cli.overrides import (
    Arguments,
    Given,
    OutputDir,
    Seed,
    TrustRemoteCode,
    named_settings,
    read_words,
)
from seqdistill.cli.screen import console_on, echo, program, quoted, say_aligned
from seqdistill.core.errors import UserError
from seqdistill.records.writable import check_writable

if TYPE_CHECKING:
    from seqdistill.recipe.loading import Purpose
    from seqdistill.recipe.schema import Recipe
    from seqdistill.records.run_directory import Resume as Resumption
    from seqdistill.records.run_directory import RunDirectory

Resume = Annotated[
    bool, typer.Option("--resume", help="Resume the run in output_dir from its latest checkpoint.")
]
ResumeWhole = Annotated[
    bool,
    typer.Option(
        "--resume-whole",
        help="Resume from the newest checkpoint that is whole, dropping damaged ones.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be done, and write nothing."),
]
# Optional to typer only: its place among free options is found by `read_words`.
RecipeWord = Annotated[
    str,
    typer.Argument(metavar="RECIPE", help="A YAML file, or a preset (`recipe list`)."),
]


def demo(
    settings: Arguments = None,
    *,
    output_dir: OutputDir = None,
    seed: Seed = None,
    resume: Resume = False,
    resume_whole: ResumeWhole = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Distil a small English-German translator from the bundled teacher, and measure it.

    Trains a student without distillation, one with word-level and one with
    sequence-level distillation, and compares them on the test set.
    """
    given = read_words(settings or [])
    _refuse_positional(given.positional)
    how = _resumption(resume, whole=resume_whole)
    overrides = [*given.overrides, *named_settings(output_dir, seed)]
    recipe = _recipe("demo", overrides, purpose="measure")
    _check_output(recipe, resume=how)
    if dry_run:
        _show_plan(recipe, verbose=verbose)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.jobs.demo import run_recipe

        run = run_recipe(recipe, progress=progress, resume=how)
    _show_demo(run)


def train(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    output_dir: OutputDir = None,
    seed: Seed = None,
    resume: Resume = False,
    resume_whole: ResumeWhole = False,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Train the recipe's student, or all students of a comparison.

    A setting reads key=value; the usual names of Hugging Face scripts are understood.
    """
    given, name = _with_recipe(recipe, settings)
    how = _resumption(resume, whole=resume_whole)
    overrides = [*given.overrides, *named_settings(output_dir, seed, trust_remote_code)]
    chosen = _recipe(name, overrides)
    _refuse_untrusted(name, chosen, overrides, trusted=trust_remote_code)
    _check_output(chosen, resume=how)
    if dry_run:
        _show_plan(chosen, verbose=verbose)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.jobs.train import train as train_recipe

        run = train_recipe(chosen, progress=progress, resume=how)
    _show_trained(run, chosen.plugins)


def label(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    output_dir: OutputDir = None,
    seed: Seed = None,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Generate and cache the teacher's outputs for the training data, to be reused by `train`.

    The recipe needs data.train and teacher.model, and no student. The labels are written to
    output_dir where that is given here, to be named as sequences.corpus=DIR when training; else to
    teacher-corpora/ beside the runs, where `train` finds them by itself. Each shard is a Parquet
    file with the columns id, source, rank (0 is the best), token_ids, text, log_prob and finished.
    Stopped at any moment, the same command continues.
    """
    given, name = _with_recipe(recipe, settings)
    overrides = [*given.overrides, *named_settings(output_dir, seed, trust_remote_code)]
    chosen = _recipe(name, overrides, purpose="label")
    _refuse_untrusted(name, chosen, overrides, trusted=trust_remote_code)
    from seqdistill.recipe.systems import output_folder

    if any(word.partition("=")[0] == "output_dir" for word in overrides):
        if chosen.sequences.corpus is not None:
            raise UserError(
                "output_dir must be left out where sequences.corpus names the labels' folder, "
                f"got {chosen.sequences.corpus!r} as the latter; remove one of the two"
            )
        corpus = str(output_folder(chosen))
        sequences = chosen.sequences.model_copy(update={"corpus": corpus})
        chosen = chosen.model_copy(update={"sequences": sequences})
    else:
        corpus = None
    check_writable(Path(chosen.sequences.corpus or output_folder(chosen)), "output_dir")
    if dry_run:
        with job(console_on(), verbose=verbose):
            from seqdistill.jobs.label import plan_labels

            lines = plan_labels(chosen)
        say_aligned(lines)
        echo("Nothing was written.")
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.jobs.label import check_labels, label_data

        folder = label_data(chosen, progress=progress)
        check_labels(folder)
    echo()
    say_aligned(
        [
            ("teacher's corpus", str(folder)),
            (
                "train on it",
                f"{program()} train {name} ... with the same data and decoding"
                + (f" and sequences.corpus={quoted(folder)}" if corpus else ""),
            ),
        ]
    )


def _with_recipe(recipe: str, settings: Sequence[str] | None) -> tuple[Given, str]:
    """The settings, and the one word among them that names the recipe."""
    given = read_words([recipe, *(settings or [])])
    if not given.positional:
        raise UserError("RECIPE must be a YAML file or a preset, but none was given; see --help")
    _refuse_positional(given.positional[1:])
    return given, given.positional[0]


def _refuse_untrusted(
    name: str, recipe: Recipe, overrides: Sequence[str], *, trusted: bool
) -> None:
    """Raises UserError where a run's own recipe, which may be a stranger's, would run code.

    A recipe file of the user's own, and settings on this command line, are trusted.
    """
    from seqdistill.records.run_directory import MANIFEST, RECIPE

    path = Path(name)
    if trusted or path.name != RECIPE or not (path.parent / MANIFEST).is_file():
        return
    asked = {
        "teacher.trust_remote_code": recipe.teacher.trust_remote_code,
        "student.trust_remote_code": recipe.student.trust_remote_code,
        "objective.reward.function": ":" in (recipe.objective.reward.function or ""),
    }
    given = {text.partition("=")[0] for text in overrides}
    for key in (key for key, is_asked in asked.items() if is_asked and key not in given):
        raise UserError(
            f"{key} must be trusted on this command line when the recipe is that of a run, which "
            f"may be someone else's, but {name} asks to run Python code by it; read that code, and "
            "give --trust-remote-code where you trust it"
        )


def _resumption(resume: bool, *, whole: bool) -> Resumption:
    """What the two options together ask for."""
    return "latest-whole" if whole else resume


def _refuse_positional(words: Sequence[str]) -> None:
    if words:
        raise UserError(
            f"a setting must read key=value or --key value, got {words[0]!r}; "
            "write for example training.steps=200"
        )


def _recipe(name: str, overrides: Sequence[str], *, purpose: Purpose = "train") -> Recipe:
    from seqdistill.recipe.loading import load_recipe

    return load_recipe(name, overrides, purpose=purpose)


def _check_output(recipe: Recipe, *, resume: Resumption) -> None:
    """Raises UserError when the run cannot be written where it should be."""
    from seqdistill.recipe.systems import output_folder
    from seqdistill.records.run_directory import RunDirectory

    folder = output_folder(recipe)
    if not resume:
        RunDirectory(folder).check_free()
    check_writable(folder, "output_dir")


def _show_plan(recipe: Recipe, *, verbose: bool) -> None:
    with job(console_on(), verbose=verbose):
        from seqdistill.jobs.plan import plan

        lines = plan(recipe).lines()
    say_aligned(lines)
    echo("Nothing was written.")


def _show_trained(run: RunDirectory, plugins: Sequence[str]) -> None:
    named = f" {quoted('plugins=[' + ', '.join(plugins) + ']')}" if plugins else ""
    members = run.members() or [run]
    many = len(members) > 1 or members[0].path != run.path
    echo()
    say_aligned(
        [
            *(
                (f"student {m.path.name}" if many else "student", str(m.student_path))
                for m in members
            ),
            *_judging(members[0]),
            ("next", f"{program()} evaluate {quoted(run.path)}{named}"),
        ]
    )


def _judging(run: RunDirectory) -> list[tuple[str, str]]:
    """What chose the checkpoints and will measure, as the run noted it; nothing of older runs."""
    judging = run.read_manifest().get("judging") if run.manifest_path.is_file() else None
    return [("judged by", str(judging["in_words"]))] if isinstance(judging, dict) else []


def _show_demo(run: RunDirectory) -> None:
    from seqdistill.cli.tables import show_results

    student, results = run.student_path, run.read_results()
    echo()
    show_results(results, console_on())
    sentence = "Click the button to open the file."
    echo()
    say_aligned(
        [
            (
                "student" if results.recommended is None else "best student",
                f"{results.student}, in {student}",
            ),
            ("translate", f'{program()} generate {quoted(student)} "{sentence}"'),
            ("in Python", f'AutoModelForSeq2SeqLM.from_pretrained("{student}")  # transformers'),
            *(
                (copy.init or copy.name, f"{run.path / copy.folder}  (CTranslate2)")
                for copy in results.exports
                if copy.folder is not None
            ),
            ("HTML report", str(run.report_path)),
        ]
    )

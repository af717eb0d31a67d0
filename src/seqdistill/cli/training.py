"""The commands that make students: `demo`, `train`, `label`; with `--dry-run` they only plan.

They read the recipe before anything heavy is imported, so that a mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqdistill.cli.jobs import Verbose, job
from seqdistill.cli.overrides import Arguments, Given, OutputDir, Seed, named_settings, read_words
from seqdistill.cli.paths import check_writable
from seqdistill.cli.screen import console_on, program, quoted, say, say_aligned
from seqdistill.core.errors import UserError

if TYPE_CHECKING:
    from seqdistill.recipe.schema import Recipe
    from seqdistill.records.run_directory import RunDirectory

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in output_dir, from its newest state.")
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
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Distil a small English-German translator from the bundled teacher, and measure it.

    Trains a student without distillation, one with word-level and one with
    sequence-level distillation, and compares them on the test set.
    """
    given = read_words(settings or [])
    _refuse_positional(given.positional)
    resume = resume or given.resume
    overrides = [*given.overrides, *named_settings(output_dir, seed)]
    recipe = _recipe("demo", overrides)
    _check_output(recipe, resume=resume)
    if dry_run:
        _show_plan(recipe, verbose=verbose)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.build.demo import run_demo

        run = run_demo(overrides, progress=progress, resume=resume)
    _show_demo(run)


def train(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    output_dir: OutputDir = None,
    seed: Seed = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Train the student of a recipe, or every student of one that compares.

    A setting reads key=value, --key value or --key=value; the usual names of
    Hugging Face scripts are understood.
    """
    given, name = _with_recipe(recipe, settings)
    resume = resume or given.resume
    chosen = _recipe(name, [*given.overrides, *named_settings(output_dir, seed)])
    _check_output(chosen, resume=resume)
    if dry_run:
        _show_plan(chosen, verbose=verbose)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.build.running import train as train_recipe

        run = train_recipe(chosen, progress=progress, resume=resume)
    _show_trained(run)


def label(
    recipe: RecipeWord,
    settings: Arguments = None,
    *,
    output_dir: OutputDir = None,
    seed: Seed = None,
    verbose: Verbose = False,
) -> None:
    """Let the teacher of a recipe write the training sequences, once, to be reused by `train`.

    Stopped at any moment, the same command goes on where it was.
    """
    given, name = _with_recipe(recipe, settings)
    chosen = _recipe(name, [*given.overrides, *named_settings(output_dir, seed)])
    from seqdistill.recipe.systems import output_folder

    if chosen.sequences.corpus is None:
        check_writable(output_folder(chosen), "output_dir")
    else:
        check_writable(Path(chosen.sequences.corpus), "sequences.corpus")

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.build.labelling import label_data

        folder = label_data(chosen, progress=progress)
    say()
    say_aligned(
        [
            ("teacher's corpus", str(folder)),
            ("train on it", f"{program()} train {name} ... with the same data and decoding"),
        ]
    )


def _with_recipe(recipe: str, settings: Sequence[str] | None) -> tuple[Given, str]:
    """The settings, and the one word among them that names the recipe."""
    given = read_words([recipe, *(settings or [])])
    if not given.positional:
        raise UserError("RECIPE must be a YAML file or a preset, but none was given; see --help")
    _refuse_positional(given.positional[1:])
    return given, given.positional[0]


def _refuse_positional(words: Sequence[str]) -> None:
    if words:
        raise UserError(
            f"a setting must read key=value or --key value, got {words[0]!r}; "
            "write for example training.updates=200"
        )


def _recipe(name: str, overrides: Sequence[str]) -> Recipe:
    from seqdistill.recipe.loading import load_recipe

    return load_recipe(name, overrides)


def _check_output(recipe: Recipe, *, resume: bool) -> None:
    """Raises UserError when the run cannot be written where it should be."""
    from seqdistill.recipe.systems import output_folder
    from seqdistill.records.run_directory import RunDirectory

    folder = output_folder(recipe)
    if not resume:
        RunDirectory(folder).check_free()
    check_writable(folder, "output_dir")


def _show_plan(recipe: Recipe, *, verbose: bool) -> None:
    with job(console_on(), verbose=verbose):
        from seqdistill.build.planning import plan

        lines = plan(recipe).lines()
    say_aligned(lines)
    say("Nothing was written.")


def _show_trained(run: RunDirectory) -> None:
    members = run.members() or [run]
    many = len(members) > 1 or members[0].path != run.path
    say()
    say_aligned(
        [
            *(
                (f"student {m.path.name}" if many else "student", str(m.student_path))
                for m in members
            ),
            *_judging(members[0]),
            ("measure it", f"{program()} evaluate {quoted(run.path)}"),
        ]
    )


def _judging(run: RunDirectory) -> list[tuple[str, str]]:
    """What chose the checkpoints and will measure, as the run noted it; nothing of older runs."""
    judging = run.read_manifest().get("judging") if run.manifest_path.is_file() else None
    return [("judged by", str(judging["in_words"]))] if isinstance(judging, dict) else []


def _show_demo(run: RunDirectory) -> None:
    from seqdistill.cli.tables import show_results
    from seqdistill.report.inputs import read_contents

    say()
    contents = read_contents(run.path)
    show_results(contents, console_on())
    student, results = run.student_path, run.read_results()
    sentence = "Click the button to open the file."
    say()
    say_aligned(
        [
            (
                "student" if results.get("recommended") is None else "best student",
                f"{results.get('student', 'student')}, in {student}",
            ),
            ("translate", f'{program()} generate {quoted(student)} "{sentence}"'),
            ("in Python", f'AutoModelForSeq2SeqLM.from_pretrained("{student}")  # transformers'),
            *(
                (copy.init or copy.name, f"{run.path / copy.folder}  (CTranslate2)")
                for copy in contents.copies
                if copy.folder is not None
            ),
            ("report", str(run.report_path)),
        ]
    )

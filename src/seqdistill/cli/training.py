"""The commands that make students: `demo`, `train`, `label`; with `--dry-run` they only plan.

They read the recipe before anything heavy is imported, so that a mistake is reported at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from seqdistill.cli.options import (
    Arguments,
    OutputDir,
    Ray,
    Seed,
    TrustRemoteCode,
    Verbose,
    Workers,
    argument,
    check_ray,
    named_settings,
    read_words,
)
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo, program, quoted, say_aligned, show_plan
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
    bool, typer.Option("--dry-run", help="Print what would be done, and write nothing.")
]
# Optional to typer only: its place among free options is found by `read_words`.
RecipeWord = Annotated[str, argument("RECIPE", "A YAML file, or a preset (`recipe list`).")]


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
    recipe = recipe_of("demo", settings, output_dir, seed, purpose="measure")
    how = _resumption(recipe, resume, whole=resume_whole)
    if dry_run:
        _show_plan(recipe, verbose=verbose)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.jobs.distill import run_recipe

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
    words = [recipe, *(settings or [])]
    chosen = recipe_of(None, words, output_dir, seed, trust_remote_code)
    how = _resumption(chosen, resume, whole=resume_whole)
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
    workers: Workers = None,
    ray: Ray = None,
    dry_run: DryRun = False,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Generate and cache the teacher's outputs for the training data, to be reused by `train`.

    The recipe needs data.train and teacher.model, and no student; data.unlabelled is labelled, too,
    where it is given. The labels are written to
    output_dir where that is given here, to be named as sequences.corpus=DIR when training; else to
    teacher-corpora/ beside the runs, where `train` finds them by itself. Each shard is a Parquet
    file with the columns id, source, rank (0 is the best), token_ids, text, log_prob and finished.
    Several processes (torchrun) or Ray workers share the work; stopped at any moment, the same
    command continues.
    """
    check_ray(workers, ray)
    words = [recipe, *(settings or [])]
    chosen = recipe_of(None, words, output_dir, seed, trust_remote_code, purpose="label")
    from seqdistill.recipe.systems import output_folder

    named = output_dir is not None or any(word.startswith("output_dir=") for word in words)
    if named:
        if chosen.sequences.corpus is not None:
            raise UserError(
                "output_dir must be left out where sequences.corpus names the labels' folder, "
                f"got {chosen.sequences.corpus!r} as the latter; remove one of the two"
            )
        corpus = {"corpus": str(output_folder(chosen))}
        sequences = chosen.sequences.model_copy(update=corpus)
        chosen = chosen.model_copy(update={"sequences": sequences})
    check_writable(Path(chosen.sequences.corpus or output_folder(chosen)), "output_dir")
    if dry_run:
        with job(console_on(), verbose=verbose):
            from seqdistill.jobs.label import plan_labels

            lines = plan_labels(chosen)
        show_plan(lines)
        return

    with job(console_on(), verbose=verbose) as progress:
        from seqdistill.jobs.label import check_labels, label_data
        from seqdistill.jobs.ray_workers import RayWorkers

        by = None if workers is None else RayWorkers(workers, ray)
        folder = label_data(chosen, progress=progress, workers=by)
        if not chosen.teacher.members:  # else each was looked at
            check_labels(folder)
    echo()
    name = read_words(words).positional[0]
    at = f" and sequences.corpus={quoted(folder)}" if named else ""
    use = f"{program()} train {name} ... with the same data and decoding{at}"
    say_aligned([("teacher's corpus", str(folder)), ("train on it", use)])


def recipe_of(
    name: str | None,
    words: Sequence[str] | None,
    output_dir: str | None,
    seed: int | None,
    trusted: bool = False,
    *,
    purpose: Purpose = "train",
) -> Recipe:
    """The recipe of a command line. Without `name`, the one word that is no setting names it."""
    from seqdistill.recipe.loading import load_recipe

    given = read_words(words or [])
    positional = list(given.positional)
    if name is None:
        if not positional:
            raise UserError(
                "RECIPE must be a YAML file or a preset, but none was given; see --help"
            )
        name = positional.pop(0)
    if positional:
        raise UserError(
            f"a setting must read key=value or --key value, got {positional[0]!r}; "
            "write for example training.steps=200"
        )
    overrides = [*given.overrides, *named_settings(output_dir, seed, trusted)]
    recipe = load_recipe(name, overrides, purpose=purpose)
    if not trusted:
        _refuse_untrusted(name, recipe, overrides)
    return recipe


def _refuse_untrusted(name: str, recipe: Recipe, overrides: Sequence[str]) -> None:
    """Raises UserError where a run's own recipe, which may be a stranger's, would run code.

    A recipe file of the user's own, and settings on this command line, are trusted.
    """
    from seqdistill.records.run_directory import MANIFEST, RECIPE

    path = Path(name)
    if path.name != RECIPE or not (path.parent / MANIFEST).is_file():
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


def _resumption(recipe: Recipe, resume: bool, *, whole: bool) -> Resumption:
    """What the two options ask for. Raises UserError when the run cannot be written."""
    from seqdistill.recipe.systems import output_folder
    from seqdistill.records.run_directory import RunDirectory

    folder = output_folder(recipe)
    if not (resume or whole):
        RunDirectory(folder).check_free()
    check_writable(folder, "output_dir")
    return "latest-whole" if whole else resume


def _show_plan(recipe: Recipe, *, verbose: bool) -> None:
    with job(console_on(), verbose=verbose):
        from seqdistill.jobs.plan import plan

        lines = plan(recipe).lines()
    show_plan(lines)


def _show_trained(run: RunDirectory, plugins: Sequence[str]) -> None:
    named = f" {quoted('plugins=[' + ', '.join(plugins) + ']')}" if plugins else ""
    members = run.members() or [run]
    many = len(members) > 1 or members[0].path != run.path
    students = [
        (f"student {m.path.name}" if many else "student", str(m.student_path)) for m in members
    ]
    manifests = [m.read_manifest() if m.manifest_path.exists() else {} for m in members]
    judging = manifests[0].get("judging")
    judged = [("judged by", str(judging["in_words"]))] if isinstance(judging, dict) else []
    stopped = []
    for manifest in manifests:
        trained = cast("list[dict[str, str | None]]", manifest.get("stages") or [])
        if isinstance(alone := manifest.get("training"), dict):
            trained = [alone]
        for each in trained:
            if why := each["stopped_by"]:
                stage = f"{each['folder']}: " if "folder" in each else ""
                stopped.append(("stopped by", f"{stage}{why}"))
    echo()
    say_aligned(
        [*students, *stopped, *judged, ("next", f"{program()} evaluate {quoted(run.path)}{named}")]
    )


def _show_demo(run: RunDirectory) -> None:
    from seqdistill.cli.tables import show_results

    student, results = run.student_path, run.read_results()
    generate = f'{program()} generate {quoted(student)} "Click the button to open the file."'
    label = "student" if results.recommended is None else "best student"
    echo()
    show_results(results, console_on())
    echo()
    say_aligned(
        [
            (label, f"{results.student}, in {student}"),
            ("translate", generate),
            ("in Python", f'AutoModelForSeq2SeqLM.from_pretrained("{student}")  # transformers'),
            *(
                (copy.init or copy.name, f"{run.path / copy.folder}  (CTranslate2)")
                for copy in results.exports
                if copy.folder is not None
            ),
            ("HTML report", str(run.report_path)),
        ]
    )

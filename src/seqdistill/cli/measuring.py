"""The commands that measure: `evaluate` and `report` a finished run, `bench` a recipe's models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from seqdistill.cli.options import (
    Arguments,
    TrustRemoteCode,
    Verbose,
    argument,
    check_new_file,
    expanded,
    option,
    read_words,
)
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo, program, quoted, say_aligned
from seqdistill.cli.training import recipe_of
from seqdistill.core.errors import UserError
from seqdistill.records import atomic
from seqdistill.records.run_directory import RunDirectory
from seqdistill.records.writable import check_writable

RunFolder = Annotated[Path, argument("RUN_DIR", "The output_dir of a run.", callback=expanded)]
EvaluationSettings = Annotated[
    list[str] | None,
    argument(
        "KEY=VALUE",
        "Settings of data and evaluation that replace the run's, such as data.test=other.tsv "
        "or evaluation.beam_size=4.",
    ),
]


def evaluate(
    run_dir: RunFolder,
    settings: EvaluationSettings = None,
    *,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Measure teacher and students of a run on its test set: quality, likelihood, size and speed.

    Writes results.json, samples.jsonl and outputs.jsonl (all outputs) into the run directory. An
    int8 copy of the student is made and measured again.
    """
    given = read_words(settings or [])
    if given.positional:
        raise UserError(
            f"evaluate must be given one RUN_DIR and settings, got {given.positional[0]!r} beside; "
            "a setting reads key=value, such as data.test=other.tsv"
        )
    if (run_dir / "model.bin").is_file():
        raise UserError(
            f"RUN_DIR must be a run directory, got the CTranslate2 folder {str(run_dir)!r}; "
            "evaluate the run that it lies in, which measures its copy, too, or `generate` with it"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "evaluate must run in one process, since it times every system, got "
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}; start it without torchrun"
        )
    run = RunDirectory.open(run_dir)
    check_writable(run.path, "RUN_DIR")
    console = console_on()
    with job(console, verbose=verbose) as progress:
        from seqdistill.jobs.evaluate import evaluate_run

        evaluate_run(run, given.overrides, progress=progress, trust_remote_code=trust_remote_code)
    from seqdistill.cli.tables import show_results

    echo()
    show_results(run.read_results(), console)
    echo()
    say_aligned(
        [
            ("results", str(run.results_path)),
            ("HTML report", f"{program()} report {quoted(run.path)}"),
        ]
    )


def report(
    run_dir: RunFolder,
    *,
    output: Annotated[
        Path | None,
        option(
            "--output -o",
            "FILE",
            "Where to write the page. Default: RUN_DIR/report.html.",
            callback=expanded,
        ),
    ] = None,
) -> None:
    """Make one self-contained HTML page of a run: table, tests, training curves, sample outputs."""
    check_new_file(output or RunDirectory(run_dir).report_path, "the report")
    from seqdistill.report import build_report, write_report

    if output is None:
        output = write_report(run_dir)
    else:
        atomic.write_text(output, build_report(run_dir))
    say_aligned([("HTML report", str(output))])


def bench(
    recipe: Annotated[
        str, argument("[RECIPE]", "A YAML file, or a preset (`recipe list`). Default: demo.")
    ] = "demo",
    settings: Arguments = None,
    *,
    output: Annotated[
        Path | None,
        option("--output -o", "FILE", "Write all numbers there as JSON.", callback=expanded),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Measure how fast the recipe's models train and decode here, beside plain transformers.

    Takes a minute or two: training steps, rollouts, labelling and the loss, each in turns with
    what it is compared with. Trains nothing, and writes nothing but FILE.
    """
    words = [recipe, *(settings or [])]
    if not read_words(words).positional:
        words.append("demo")
    chosen = recipe_of(None, words, None, None, trust_remote_code)
    if output is not None:
        check_new_file(output, "--output")
    console = console_on()
    with job(console, verbose=verbose) as progress:
        from seqdistill.jobs.bench import bench as measure

        found = measure(chosen, progress=progress)
    from seqdistill.cli.tables import comparisons_table

    echo()
    console.print(comparisons_table(found.comparisons))
    for name, why in found.not_measured.items():
        echo(f"not measured: {name}: {why}")
    if output is not None:
        atomic.write_json(output, found.to_json())
        say_aligned([("numbers", str(output))])

"""The command `generate`: texts in, one line out for each, whole or not at all.

Knows where texts come from and go to; the model's side is `build.generating`.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqdistill.cli.jobs import Verbose, job
from seqdistill.cli.paths import STANDARD_STREAM, check_new_file, read_lines, write_lines
from seqdistill.cli.screen import console_on, say
from seqdistill.core.errors import UserError


class Engine(enum.StrEnum):
    """What decodes; `recipe.schema` says more."""

    auto = "auto"
    ctranslate2 = "ctranslate2"
    transformers = "transformers"


class ComputeType(enum.StrEnum):
    """The arithmetic of CTranslate2."""

    float32 = "float32"
    int8 = "int8"
    float16 = "float16"
    bfloat16 = "bfloat16"


def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A transformers folder, an int8 folder of `export`, or a hub name.",
            show_default=False,
        ),
    ],
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="Texts to translate.", show_default=False),
    ] = None,
    *,
    input_file: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="FILE", help="One text a line; - is standard input."),
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Replaced when it is complete."),
    ] = None,
    beam_size: Annotated[
        int,
        typer.Option("--beam-size", "--num_beams", metavar="N", min=1, help="1 is greedy."),
    ] = 5,
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max_new_tokens", metavar="N", min=1, help="Longest output, its end included."
        ),
    ] = 128,
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            metavar="NAME",
            help="ctranslate2, transformers, or auto: ctranslate2 where it computes the same.",
        ),
    ] = Engine.auto,
    compute_type: Annotated[
        ComputeType,
        typer.Option("--compute-type", metavar="TYPE", help="float32, int8, float16 or bfloat16."),
    ] = ComputeType.float32,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="CPU threads; all when not given."),
    ] = None,
    source_language: Annotated[
        str | None,
        typer.Option(
            "--source-language", metavar="CODE", help="Of a multilingual model, such as eng_Latn."
        ),
    ] = None,
    target_language: Annotated[
        str | None,
        typer.Option("--target-language", metavar="CODE", help="What it writes, as deu_Latn."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Translate texts with a model: arguments, the lines of a file, or standard input.

    Each input line gives exactly one output line; an empty one gives an empty one.
    """
    _check_model_folder(model)
    if output_file is not None:
        check_new_file(output_file, "--output")
    lines = _input_lines(texts or [], input_file)
    with job(console_on(stderr=True), verbose=verbose, transient=True) as progress:
        from seqdistill.build.generating import generate_texts

        outputs = generate_texts(
            model,
            lines,
            engine=engine.value,
            compute_type=compute_type.value,
            beam_size=beam_size,
            max_new_tokens=max_new_tokens,
            threads=threads,
            source_language=source_language,
            target_language=target_language,
            progress=progress,
        )
    whole_lines = [" ".join(output.splitlines()) for output in outputs]
    if output_file is not None:
        write_lines(output_file, whole_lines)
        return
    for line in whole_lines:
        say(line)


def _check_model_folder(model: str) -> None:
    folder = Path(model)
    student = folder / "student"
    if folder.is_dir() and not (folder / "config.json").is_file() and student.is_dir():
        raise UserError(
            f"MODEL must be a model folder, got the run directory {model!r}; "
            f"did you mean {str(student)!r}?"
        )


def _input_lines(texts: Sequence[str], input_file: str | None) -> list[str]:
    if texts and input_file is not None:
        raise UserError("the input must be given once, got texts and --input; leave one out")
    if texts:
        return [line for text in texts for line in text.split("\n")]
    if input_file is None and sys.stdin.isatty():
        raise UserError(
            "there must be something to translate, but no text was given; "
            "give texts, --input FILE, or a pipe"
        )
    return read_lines(input_file or STANDARD_STREAM)

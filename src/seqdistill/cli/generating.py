"""The command `generate`: texts or rows in, one line out for each, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from seqdistill.cli.options import (
    Threads,
    TrustRemoteCode,
    Verbose,
    argument,
    check_new_file,
    expanded,
    option,
)
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, echo
from seqdistill.core.errors import UserError
from seqdistill.records import atomic

if TYPE_CHECKING:
    from seqdistill.data.examples import Example

_STANDARD_INPUT = "-"
ComputeType = Literal[
    "float32", "int8", "float16", "bfloat16", "int8_float16", "int8_bfloat16", "int8_float32"
]


def _above_zero(value: float | None) -> float | None:
    if value is not None and not value > 0.0:
        raise typer.BadParameter(f"{value} must be above 0")
    return value


def generate(
    model: Annotated[
        str,
        argument(
            "MODEL",
            "A transformers folder, an int8 folder of `export`, or a hub name.",
            callback=expanded,
        ),
    ],
    texts: Annotated[list[str] | None, argument("TEXT", "Prompts; each may span lines.")] = None,
    *,
    input_file: Annotated[
        str | None,
        option(
            "--input -i",
            "FILE",
            "One prompt a line; - is standard input. Of .jsonl and .parquet files the rows, "
            "as training reads them (prompt, messages or source columns).",
        ),
    ] = None,
    output_file: Annotated[
        Path | None,
        option(
            "--output -o",
            "FILE",
            "Replaced when it is complete; a pipe or device is written to. A .jsonl file gets "
            "rows of id, prompt and output.",
            callback=expanded,
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="Prompts as they stand, without the model's chat template: for a model trained on "
            "prompt and completion columns.",
        ),
    ] = False,
    template_option: Annotated[
        list[str] | None,
        option(
            "--template-option",
            "KEY=VALUE",
            "For the chat template, such as enable_thinking=false; may be repeated.",
        ),
    ] = None,
    ignore_column: Annotated[
        list[str] | None,
        option("--ignore-column", "NAME", "A column of the rows to ignore; may be repeated."),
    ] = None,
    beam_size: Annotated[
        int | None,
        option(
            "--beam-size --num_beams", "N", "1 is greedy. Default: 5, or 1 with --draft.", min=1
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, option("--max_new_tokens", "N", "Maximum output tokens, including EOS.", min=1)
    ] = 128,
    sampling_temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T",
            help="Sample at it instead of searching; 1 is the model's own distribution.",
            callback=_above_zero,
        ),
    ] = None,
    top_k: Annotated[
        int, option("--top-k", "K", "Sample among the K likeliest symbols; 0: all.", min=0)
    ] = 0,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Sample from the smallest set of symbols with this mass.",
            max=1.0,
            callback=_above_zero,
        ),
    ] = 1.0,
    seed: Annotated[int, option("--seed", "N", "Of the samples.")] = 0,
    draft: Annotated[
        str | None,
        option(
            "--draft",
            "MODEL",
            "A small model of the same tokenizer, such as a student: it drafts, MODEL verifies "
            "and writes what it writes alone, faster where drafts are good.",
            callback=expanded,
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None,
        option("--draft-tokens", "N", "Of a draft. Default: chosen from what drafts cost.", min=1),
    ] = None,
    engine: Annotated[
        Literal["auto", "ctranslate2", "transformers"],
        option(
            "--engine",
            "NAME",
            "ctranslate2, transformers, or auto: ctranslate2 where it computes the same.",
        ),
    ] = "auto",
    compute_type: Annotated[
        ComputeType,
        option(
            "--compute-type",
            "TYPE",
            "Arithmetic of ctranslate2: float32, int8, float16, bfloat16, int8_float16, ...",
        ),
    ] = "float32",
    threads: Threads = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        option("--device", "NAME", "cpu, cuda, or auto: a GPU if there is one."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        option(
            "--dtype",
            "NAME",
            "Of the weights in memory: fp32, bf16 or fp16; auto is fp32 on CPUs, as stored on "
            "GPUs.",
        ),
    ] = "auto",
    source_language: Annotated[
        str | None,
        option(
            "--source-language", "CODE", "Of the prompts of a multilingual model, such as eng_Latn."
        ),
    ] = None,
    target_language: Annotated[
        str | None, option("--target-language", "CODE", "Of the outputs, such as deu_Latn.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Generate texts with a model from prompts: arguments, lines or rows of a file, standard input.

    A prompt is the user's message in the model's chat template, where it has one. Each prompt gives
    exactly one output line, with spaces for line breaks; .jsonl outputs keep line breaks.
    """
    _check_model_folder(model)
    if output_file is not None:
        check_new_file(output_file, "--output")
    options = _template_options(template_option or [])
    if raw and options:
        raise UserError(
            "--template-option is for the chat template, which --raw skips; leave one of them out"
        )
    with job(console_on(stderr=True), verbose=verbose, transient=True) as progress:
        from seqdistill.jobs.generate import generate_texts, is_rows, read_rows

        prompts: Sequence[str | Example]
        if input_file is not None and is_rows(input_file) and not texts:
            prompts = read_rows(input_file, ignore_columns=ignore_column or ())
        else:
            prompts = _texts(texts or [], input_file)
        outputs = generate_texts(
            model,
            prompts,
            raw=raw,
            template_options=options,
            engine=engine,
            compute_type=compute_type,
            beam_size=beam_size,
            max_new_tokens=max_new_tokens,
            sampling_temperature=sampling_temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            draft=draft,
            draft_tokens=draft_tokens,
            threads=threads,
            device=device,
            dtype=dtype,
            source_language=source_language,
            target_language=target_language,
            trust_remote_code=trust_remote_code,
            progress=progress,
        )
    asked = [
        o for p, o in zip(prompts, outputs, strict=True) if not isinstance(p, str) or p.strip()
    ]
    if not all(asked):
        typer.echo(f"{asked.count('')} of {len(asked)} outputs are empty", err=True)
    lines = [" ".join(output.splitlines()) for output in outputs]
    if output_file is not None and output_file.name.endswith(".jsonl"):
        lines = [json.dumps(row, ensure_ascii=False) for row in _rows(prompts, outputs)]
    if output_file is not None:
        atomic.write_text(output_file, "".join(f"{line}\n" for line in lines))
        return
    for line in lines:
        echo(line)


def _rows(prompts: Sequence[str | Example], outputs: Sequence[str]) -> Iterator[dict[str, object]]:
    """What a .jsonl output holds; a prompt is a text, or the turns of a conversation."""
    for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True), start=1):
        if isinstance(prompt, str):
            yield {"id": str(number), "prompt": prompt, "output": output}
            continue
        turns = prompt.messages and [turn.as_dict() for turn in prompt.messages]
        yield {"id": prompt.id, "prompt": turns or prompt.source, "output": output}


def _template_options(given: Sequence[str]) -> dict[str, object]:
    """The options by name; values are read as JSON where they are such, else as text."""
    options: dict[str, object] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise UserError(
                f"--template-option must be KEY=VALUE, got {text!r}; write for example "
                "enable_thinking=false"
            )
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _check_model_folder(model: str) -> None:
    folder = Path(model)
    student = folder / "student"
    if folder.is_dir() and not (folder / "config.json").is_file() and student.is_dir():
        raise UserError(
            f"MODEL must be a model folder, got the run directory {model!r}; "
            f"did you mean {str(student)!r}?"
        )


def _texts(texts: Sequence[str], input_file: str | None) -> list[str]:
    if texts and input_file is not None:
        raise UserError("the input must be given once, got texts and --input; leave one out")
    if texts:
        return list(texts)
    if input_file is None and sys.stdin.isatty():
        raise UserError("No prompt was given; give texts, --input FILE, or a pipe")
    return _read_lines(input_file or _STANDARD_INPUT)


def _read_lines(name: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for `-`, without line ends.

    Only LF and CRLF end a line. Raises UserError, naming file and line, for what cannot be read.
    """
    shown = "standard input" if name == _STANDARD_INPUT else name
    try:
        stdin = name == _STANDARD_INPUT
        content = sys.stdin.buffer.read() if stdin else Path(os.path.expanduser(name)).read_bytes()
    except OSError as error:
        raise UserError(
            f"--input must be a readable file, got {name!r}: {error.strerror}"
        ) from error
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
        lines.pop()
    return [_decoded(line, f"{shown}:{number}") for number, line in enumerate(lines, start=1)]


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: text must be UTF-8, found byte 0x{line[error.start]:02x} at position "
            f"{error.start} of the line; convert the file"
        ) from error

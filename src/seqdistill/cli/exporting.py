"""The command `export`: a model in a smaller stored form, and back."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from seqdistill.cli.jobs import Verbose, job
from seqdistill.cli.overrides import TrustRemoteCode
from seqdistill.cli.paths import expanded
from seqdistill.cli.screen import console_on, program, quoted, say_aligned
from seqdistill.records.writable import check_writable


class Format(enum.StrEnum):
    """How a model is stored."""

    sparse = "sparse"
    int8 = "int8"
    dense = "dense"


class Store(enum.StrEnum):
    """Precision of the weights in sparse and dense folders."""

    fp32 = "fp32"
    fp16 = "fp16"


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MODEL",
            help="A run directory (its student is exported) or a model folder.",
            show_default=False,
            callback=expanded,
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", help="A new folder.", show_default=False, callback=expanded
        ),
    ],
    *,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            metavar="FORM",
            help="sparse: without zeros. int8: for CTranslate2. dense: back from sparse.",
            show_default=False,
        ),
    ],
    save_dtype: Annotated[
        Store | None,
        typer.Option(
            "--save-dtype",
            metavar="TYPE",
            help="fp32 or fp16, of weights stored sparse or dense. Default: as the model is.",
            show_default=False,
        ),
    ] = None,
    verify_on: Annotated[
        str | None,
        typer.Option(
            "--verify-on",
            metavar="DATA",
            help="Examples that an int8 copy is compared on. Default: the run's own.",
            callback=expanded,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, help="CPU threads. Default: all cores."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Convert a model to a smaller format (sparse, int8) or back.

    The sparse form is exact: `--format dense` gives the model back bit for bit.
    """
    check_writable(output, "OUTPUT")
    with job(console_on(stderr=True), verbose=verbose, transient=True):
        from seqdistill.jobs.export import export_model

        made = export_model(
            model,
            output,
            form=form.value,
            save_dtype=None if save_dtype is None else save_dtype.value,
            verify_on=verify_on,
            threads=threads,
            trust_remote_code=trust_remote_code,
        )
    was = f" ({made.weight_bytes_before:,} before)" if made.weight_bytes_before else ""
    rows = [("written", str(made.folder)), ("weights", f"{made.weight_bytes:,} bytes{was}")]
    if made.agreement is not None:
        rows.append(("agreement", made.agreement.sentence))
    if form is Format.sparse:
        back = f"{program()} export {quoted(made.folder)} OUTPUT --format dense"
        rows.append(("unpack it", back))
    say_aligned(rows)

"""The command `export`: a model in a smaller stored form, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from seqdistill.cli.options import Threads, TrustRemoteCode, Verbose
from seqdistill.cli.paths import expanded
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, program, quoted, say_aligned
from seqdistill.records.writable import check_writable


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
        Literal["sparse", "int8", "dense"],
        typer.Option(
            "--format",
            metavar="FORM",
            help="sparse: without zeros. int8: for CTranslate2. dense: back from sparse.",
            show_default=False,
        ),
    ],
    save_dtype: Annotated[
        Literal["fp32", "fp16"] | None,
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
    threads: Threads = None,
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
            form=form,
            save_dtype=save_dtype,
            verify_on=verify_on,
            threads=threads,
            trust_remote_code=trust_remote_code,
        )
    was = f" ({made.weight_bytes_before:,} before)" if made.weight_bytes_before else ""
    rows = [("written", str(made.folder)), ("weights", f"{made.weight_bytes:,} bytes{was}")]
    if made.agreement is not None:
        rows.append(("agreement", made.agreement.sentence))
    if form == "sparse":
        back = f"{program()} export {quoted(made.folder)} OUTPUT --format dense"
        rows.append(("unpack it", back))
    say_aligned(rows)

"""The command `export`: a model in a smaller stored form, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from seqdistill.cli.options import Threads, TrustRemoteCode, Verbose, argument, expanded, option
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, program, quoted, say_aligned
from seqdistill.records.writable import check_writable


def export(
    model: Annotated[
        str,
        argument(
            "RUN_OR_MODEL",
            "A run directory (its student is exported) or a model folder.",
            callback=expanded,
        ),
    ],
    output: Annotated[Path, argument("OUTPUT", "A new folder.", callback=expanded)],
    *,
    form: Annotated[
        Literal["sparse", "int8", "dense"],
        option(
            "--format",
            "FORM",
            "sparse: without zeros. int8: for CTranslate2. dense: back from sparse.",
        ),
    ],
    save_dtype: Annotated[
        Literal["fp32", "fp16"] | None,
        option(
            "--save-dtype",
            "TYPE",
            "fp32 or fp16, of weights stored sparse or dense. Default: as the model is.",
        ),
    ] = None,
    verify_on: Annotated[
        str | None,
        option(
            "--verify-on",
            "DATA",
            "Examples that an int8 copy is compared on. Default: the run's own.",
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

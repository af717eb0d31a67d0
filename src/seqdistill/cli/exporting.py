"""The command `export`: a model in another form, how that compares, and to a hub when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table

from seqdistill.cli.options import Threads, TrustRemoteCode, Verbose, argument, expanded, option
from seqdistill.cli.progress import job
from seqdistill.cli.screen import console_on, program, quoted, say_aligned
from seqdistill.core.stored_forms import StoredForm
from seqdistill.records.writable import check_writable

if TYPE_CHECKING:
    from seqdistill.jobs.export import Exported


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
        StoredForm,
        option(
            "--format",
            "FORM",
            "dense: a transformers folder, also back from sparse. sparse: without zeros. float32, "
            "int8, int8_float16: for CTranslate2. gguf-f32, gguf-f16, gguf-q8_0: for llama.cpp. "
            "onnx: for ONNX Runtime.",
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
            "Examples that the copy is compared on. Default: the run's own.",
            callback=expanded,
        ),
    ] = None,
    push: Annotated[
        str | None,
        option(
            "--push", "REPO", "Upload the folder to this repository of the hub, private if new."
        ),
    ] = None,
    threads: Threads = None,
    trust_remote_code: TrustRemoteCode = False,
    verbose: Verbose = False,
) -> None:
    """Convert a model to another format, and compare the two on the same inputs.

    OUTPUT also holds a model card (README.md), with the numbers of a run that was evaluated, and
    what the comparison found (export.json). The sparse form is exact: `--format dense` gives the
    model back bit for bit.
    """
    check_writable(output, "OUTPUT")
    with job(console_on(stderr=True), verbose=verbose, transient=True):
        from seqdistill.jobs.export import export_model
        from seqdistill.jobs.pushing import check_repository
        from seqdistill.jobs.pushing import push as upload

        if push is not None:
            check_repository(push)
        made = export_model(
            model,
            output,
            form=form,
            save_dtype=save_dtype,
            verify_on=verify_on,
            threads=threads,
            trust_remote_code=trust_remote_code,
        )
        at = None if push is None else upload(output, push)
    console_on().print(_table(made))
    rows = [("written", str(made.folder))]
    if made.agreement is not None:
        rows.append(("agreement", made.agreement.sentence))
    if form == "sparse":
        back = f"{program()} export {quoted(made.folder)} OUTPUT --format dense"
        rows.append(("unpack it", back))
    if at is not None:
        rows.append(("uploaded to", at))
    say_aligned(rows)


def _table(made: Exported) -> Table:
    """The model and its copy side by side; a dash for what was not measured."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for head in ("bytes", "sentences/s", "same outputs", "most nats apart"):
        table.add_column(head, justify="right")

    def row(name: str, size: int, rate: float | None, *others: str) -> None:
        table.add_row(name, f"{size:,}", "–" if rate is None else f"{rate:.1f}", *others)

    row("model", made.weight_bytes_before, made.per_second_before, "", "")
    same = "–" if made.equal_outputs is None else f"{made.equal_outputs:.0%} of {made.num_inputs}"
    apart = "–" if made.agreement is None else f"{made.agreement.max_nats:.2g}"
    row(made.form, made.weight_bytes, made.per_second, same, apart)
    return table

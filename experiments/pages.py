"""Fills a page's template and writes it with its pictures beside the rows it is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import jinja2

from experiments import estimates
from experiments.claims import Figure, claim_tables, decide, read_claims
from experiments.estimates import Results
from seqdistill.core.errors import UserError
from seqdistill.records import atomic
from seqdistill.report import numbers

VERSIONS = ("seqdistill", "torch", "transformers", "ctranslate2", "sacrebleu")


def write_paper(
    path: Path,
    sources: Path,
    results: Results,
    places: Mapping[str, Figure],
    pictures: Mapping[str, bytes],
    values: Mapping[str, object],
) -> None:
    """Writes `NAME.md` and the folder `NAME` of plots beside `NAME.parquet`.

    `sources` holds page.md.jinja, which may use the functions of estimates and numbers and the
    `values`, and claims.yaml. The folder is replaced as a whole, so that no plot outlives its rows.
    """
    with atomic.replaced_folder(path.with_suffix("")) as plots:
        for name, image in pictures.items():
            atomic.write_bytes(plots / f"{name}.svg", image)
    paper = read_claims(sources / "claims.yaml")
    verdicts, details = claim_tables(paper, places)
    versions = results.facts["environment"]["versions"]
    known = {**vars(numbers), **vars(estimates), **values}
    known |= {"results": results, "paper": paper, "verdicts": verdicts, "claims": details}
    known |= {"decide": decide, "machine": results.facts["environment"]["machine"]}
    known["machines"] = " and ".join(estimates.machines_of(results.facts))
    known["versions"] = ", ".join(f"{name} {versions[name]}" for name in VERSIONS)
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters |= {name: value for name, value in known.items() if callable(value)}
    environment.globals |= known
    text = environment.from_string((sources / "page.md.jinja").read_text("utf-8")).render()
    atomic.write_text(path.with_suffix(".md"), text.rstrip("\n") + "\n")


def exits(command: Callable[[], None]) -> None:
    """Runs a command; a mistake of the user's is one sentence and exit code 2."""
    try:
        command()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)

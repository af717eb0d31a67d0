"""Writes docs/results/kim_rush.md and its plots: `python -m experiments.kim_rush.page`.

Reads docs/results/kim_rush.json and nothing else, so equal rows give equal bytes. Measures
nothing; the order of the page is here, its parts are in the modules named page_*.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from experiments.harness.pages import Pictures, exits, numbered_page, write_pictured
from experiments.kim_rush.page_claim_sections import claims, follow_ups
from experiments.kim_rush.page_curve_plots import curves_plot, pruning_plot
from experiments.kim_rush.page_findings import findings
from experiments.kim_rush.page_plots import likelihood_plot, main_plot
from experiments.kim_rush.page_reasons import reasons
from experiments.kim_rush.page_rows import TASKS, Results, Task, read
from experiments.kim_rush.page_sections import (
    curves,
    learning_rates,
    likelihood,
    main_results,
    pruning,
    speed,
    what_was_run,
)

RESULTS = Path("docs/results/kim_rush.json")
PLOTS: dict[str, Callable[[Results, Task], bytes | None]] = {
    "main": main_plot,
    "pruning": pruning_plot,
    "curves": curves_plot,
    "likelihood": likelihood_plot,
}


def drawn(results: Results) -> dict[tuple[str, str], bytes]:
    """Every plot that has something to show, as SVG, by task and plot."""
    return {
        (task.name, name): image
        for task in TASKS
        for name, plot in PLOTS.items()
        if (image := plot(results, task)) is not None
    }


def rendered(results: Results, pictures: Pictures) -> str:
    """The page as Markdown; `pictures` are the paths of the plots, as seen from it."""
    sections = (
        ("What was run", what_was_run(results)),
        ("Results", main_results(results, pictures)),
        ("Speed", speed(results)),
        ("Pruning", pruning(results, pictures)),
        ("Student size and training length", curves(results, pictures)),
        ("Learning rates", learning_rates(results)),
        ("Perplexity, mode share and quality", likelihood(results, pictures)),
        ("The paper's claims, one by one", claims(results)),
        ("What keeps claims from holding", reasons(results)),
        ("Follow-up experiments", follow_ups(results)),
    )
    return numbered_page(
        "Sequence-level distillation after Kim and Rush (2016), on two real tasks",
        "written by python -m experiments.kim_rush.page from kim_rush.json",
        findings(results),
        sections,
    )


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the results; see `harness.pages.write_pictured`.

    Raises UserError for a file that holds no results.
    """
    results = read(path)
    write_pictured(
        path,
        drawn(results),
        stems={task.name: task.file_stem for task in TASKS},
        rendered=lambda pictures: rendered(results, pictures),
    )


if __name__ == "__main__":
    exits(write_page)

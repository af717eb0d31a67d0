"""Writes docs/results/gkd.md and its plots: `python -m experiments.gkd.page`.

Reads docs/results/gkd.json and nothing else, so equal rows give equal bytes. Measures nothing; the
order of the page is here, its parts are in the modules named page_*.
"""

from __future__ import annotations

from pathlib import Path

from experiments.gkd import page_sections as sections
from experiments.gkd.page_plots import PLOTS
from experiments.gkd.page_reasons import reasons
from experiments.gkd.page_rows import SHOWN, Results, read, students_of
from experiments.harness.pages import Pictures, exits, numbered_page, write_pictured

RESULTS = Path("docs/results/gkd.json")


def drawn(results: Results) -> dict[tuple[str, str], bytes]:
    """Every plot that has something to show, as SVG, by task and plot."""
    return {
        (students.shown.name, name): image
        for students in students_of(results)
        for name, plot in PLOTS.items()
        if (image := plot(students)) is not None
    }


def rendered(results: Results, pictures: Pictures) -> str:
    """The page as Markdown; `pictures` are the paths of the plots, as seen from it."""
    found = students_of(results)
    parts = (
        ("What was run", sections.what_was_run(results, found)),
        ("Results", sections.main_results(found, pictures)),
        ("Divergences and the student's share", sections.over_shares(found, pictures)),
        ("Quality and diversity of samples", sections.diversity(found, pictures)),
        ("Fewer inputs", sections.data_efficiency(found, pictures)),
        ("Equal time", sections.equal_time(found, pictures)),
        ("Longer training", sections.longer_training(found, pictures)),
        ("A later start", sections.later_start(found, pictures)),
        ("Rewards", sections.rewards(found, pictures)),
        ("Learning rates", sections.learning_rates(found)),
        ("The paper's claims, one by one", sections.claims(found)),
        ("What keeps claims from holding", reasons(found)),
    )
    return numbered_page(
        "On-policy distillation after Agarwal et al. (2024)",
        "written by python -m experiments.gkd.page from gkd.json",
        tuple(sections.findings(found)),
        parts,
    )


def write_page(path: Path = RESULTS) -> None:
    """Writes the page and its plots beside the results; see `harness.pages.write_pictured`.

    Raises UserError for a file that holds no results.
    """
    results = read(path)
    write_pictured(
        path,
        drawn(results),
        stems={shown.name: shown.file_stem for shown in SHOWN},
        rendered=lambda pictures: rendered(results, pictures),
    )


if __name__ == "__main__":
    exits(write_page)

"""Writes docs/results/gkd.md and its plots: `python -m experiments.gkd.page`.

Reads docs/results/gkd.json and nothing else, so equal rows give equal bytes. Measures nothing; the
order of the page is here, its parts are in the modules named page_*.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.gkd import page_sections as sections
from experiments.gkd.page_plots import PLOTS
from experiments.gkd.page_rows import SHOWN, Results, read, students_of
from seqdistill.core.errors import UserError
from seqdistill.records import atomic

RESULTS = Path("docs/results/gkd.json")


def drawn(results: Results) -> dict[tuple[str, str], bytes]:
    """Every plot that has something to show, as SVG, by task and plot."""
    return {
        (students.shown.name, name): image
        for students in students_of(results)
        for name, plot in PLOTS.items()
        if (image := plot(students)) is not None
    }


def rendered(results: Results, pictures: sections.Pictures) -> str:
    """The page as Markdown; `pictures` are the paths of the plots, as seen from it."""
    found = students_of(results)
    parts = (
        ("What was run", sections.what_was_run(results, found)),
        ("Results", sections.main_results(found, pictures)),
        ("Divergences and the student's share", sections.over_shares(found, pictures)),
        ("Quality and diversity of samples", sections.diversity(found, pictures)),
        ("Fewer inputs", sections.data_efficiency(found, pictures)),
        ("Equal time", sections.equal_time(found, pictures)),
        ("Rewards", sections.rewards(found, pictures)),
        ("Learning rates", sections.learning_rates(results, found)),
        ("The paper's claims, one by one", sections.claims(found)),
    )
    lines = [
        "# On-policy distillation after Agarwal et al. (2024), on four tasks",
        "",
        "<!-- written by python -m experiments.gkd.page from gkd.json -->",
        "",
        *(f"{number}. {text}" for number, text in enumerate(sections.findings(found), start=1)),
    ]
    for heading, text in parts:
        lines += ["", f"## {heading}", "", text]
    return "\n".join(lines) + "\n"


def write_page(path: Path = RESULTS) -> None:
    """Writes `NAME.md` and the folder `NAME` of plots beside the results `NAME.json`.

    The folder is replaced as a whole, so that no plot outlives its rows. Raises UserError for a
    file that holds no results.
    """
    results = read(path)
    images = drawn(results)
    stems = {shown.name: shown.file_stem for shown in SHOWN}
    names = {key: f"{stems[key[0]]}_{key[1]}.svg" for key in images}
    folder = path.with_suffix("")
    with atomic.replaced_folder(folder) as plots:
        for key, image in images.items():
            atomic.write_bytes(plots / names[key], image)
    pictures = {key: f"{folder.name}/{name}" for key, name in names.items()}
    atomic.write_text(path.with_suffix(".md"), rendered(results, pictures))


def main() -> None:
    """The command line: no arguments."""
    try:
        write_page()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

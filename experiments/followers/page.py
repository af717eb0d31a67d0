"""Writes docs/results/followers.md: `python -m experiments.followers.page`.

Reads docs/results/followers.parquet alone and shows whatever rows exist. The prose is in
page.md.jinja, what is asked in claims.yaml: rows decide. Measures nothing.
"""

from __future__ import annotations

from pathlib import Path

from experiments.estimates import Shown
from experiments.on_policy.page import START, Place, read
from experiments.pages import exits, write_paper
from experiments.shapes import read_tasks

RESULTS = Path("docs/results/followers.parquet")
SHOWN = read_tasks(Path(__file__).parents[1] / "shown.yaml", tuple[Shown, ...])["followers"][0]
METHOD_NAMES = {
    "teacher": "Teacher",
    START: "Start",
    "all_tokens": "On-policy, reverse KL, all tokens",
    "tip_half": "TIP, ρ 0.5",
    "tip_fifth": "TIP, ρ 0.2",
    "tip_tenth": "TIP, ρ 0.1",
    "four_alike": "On-policy, forward KL, 4 samples a prompt",
    "paced": "PACED weights, 4 samples a prompt",
    "hard_filter": "Hard filter 0.2–0.8, 4 samples a prompt",
    "on_policy": "On-policy, forward KL",
    "near_policy": "Near-policy",
    "near_policy_unfiltered": "Near-policy without the filter",
}


def write_page(path: Path = RESULTS) -> None:
    """Writes the page beside the rows."""
    results = read(path)
    place = Place(results, SHOWN, "")
    write_paper(
        path,
        Path(__file__).parent,
        results,
        {place.shown.title: place.figure},
        {},
        {"place": place, "METHOD_NAMES": METHOD_NAMES},
    )


if __name__ == "__main__":
    exits(write_page)

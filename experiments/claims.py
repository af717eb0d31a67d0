"""A paper's claims and what our numbers say of each: by the whole 95 % interval of a figure.

A claim is a few figures, each with the limits that it should lie between. It holds where all of
every interval lies between them, fails where all of one lies outside, else it is open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.estimates import Estimate, change, factor, table

HOLDS, FAILS, OPEN, MISSED = "holds", "does not hold", "undecided", "not measured"

Figure = Callable[[Mapping[str, Any]], Estimate | None]
"""The number that a line of claims.yaml asks for."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """One line of the YAML file: what the paper says, and the figures that decide it."""

    claim: str
    paper: str
    rule: str
    figures: Sequence[Mapping[str, Any]]
    """Each with its label, what it is of, and its limit: [low, high], null for no end."""
    note: str = ""
    """What a reader of the verdict has to know."""
    tasks: Sequence[str] | None = None
    """Where it is tested; None: everywhere."""


def read_claims(path: Path) -> list[Claim]:
    """The claims in the order of the file."""
    return [Claim(**item) for item in yaml.safe_load(path.read_text("utf-8"))]


def decide(claim: Claim, found: Figure) -> tuple[str, list[tuple[str, str, str]]]:
    """The verdict, and (label, figure, verdict) of each figure that `found` knows."""
    lines, verdicts = [], []
    for figure in claim.figures:
        estimate = found(figure)
        if estimate is None and figure.get("optional"):
            continue
        text = change(estimate, figure.get("places", 1))
        if figure.get("kind") == "ratio":
            text = factor(estimate)
        text += f" ({estimate.told_basis})" if estimate else ""
        verdicts.append(_verdict(estimate, *figure.get("limit", (0, None))))
        lines.append((figure["label"], text, verdicts[-1]))
    order = (FAILS, MISSED, OPEN, HOLDS)
    return min(verdicts, key=order.index), lines


def claim_tables(
    claims: Sequence[Claim], places: Mapping[str, Figure]
) -> tuple[str, list[dict[str, str]]]:
    """The verdicts on all claims, a column for each place; and each claim with its own figures.

    A place is a task, or one of its students; its function gives the number of a figure.
    """
    lines, details = [], []
    for number, claim in enumerate(claims, start=1):
        verdicts, figures = [], []
        for name, found in places.items():
            if claim.tasks is not None and name not in claim.tasks:
                verdicts.append("not tested here")
                continue
            verdict, told = decide(claim, found)
            verdicts.append(verdict)
            figures += [[name, *line] for line in told]
        lines.append([str(number), claim.claim, *verdicts])
        text = table(["where", "", "figure", "verdict"], figures, text_columns=4)
        told_claim = {"title": f"{number}. {claim.claim}", "paper": claim.paper, "rule": claim.rule}
        details.append({**told_claim, "note": claim.note, "table": text})
    return table(["", "claim", *places], lines, text_columns=len(places) + 2), details


def _verdict(found: Estimate | None, low: float | None, high: float | None) -> str:
    if found is None:
        return MISSED
    if found.low is None or found.high is None:
        return OPEN
    low, high = (-float("inf") if low is None else low), (float("inf") if high is None else high)
    if low < found.low and found.high < high:
        return HOLDS
    return FAILS if found.high < low or found.low > high else OPEN

"""Estimates, names and tables as Markdown. Decides nothing about what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.harness.statistics import Estimate
from seqdistill.report.numbers import HARD, MISSING, THIN, fixed, signed

NOT_MEASURED = "Not measured yet."


def score(estimate: Estimate | None, places: int = 1) -> str:
    """`18.9 ± 0.3` over seeds, `18.9 [18.0, 19.8]` from the test set, `18.9` without interval."""
    if estimate is None:
        return MISSING
    return fixed(estimate.value, places) + _interval(estimate, places)


def change(estimate: Estimate | None, places: int = 1) -> str:
    """Like `score`, with its sign: `+1.7 ± 0.4`; what rounds to zero has none."""
    if estimate is None:
        return MISSING
    return signed(estimate.value, places).removeprefix("±") + _interval(estimate, places)


def factor(estimate: Estimate | None) -> str:
    """`12.3× [10.9, 13.8]`, with two decimals below ten."""
    if estimate is None:
        return MISSING
    places = 2 if estimate.value < 10.0 else 1
    ends = _brackets(estimate, places) if estimate.low is not None else ""
    return fixed(estimate.value, places) + "×" + ends


def basis(estimate: Estimate) -> str:
    """Where the interval comes from: `5 seeds`, `1 seed, test set`, `1 seed, no interval`."""
    if estimate.basis == "seeds":
        return f"{estimate.n} seeds"
    return "1 seed, test set" if estimate.basis == "test set" else "1 seed, no interval"


def grouped_thousands(values: Sequence[float]) -> str:
    """Whole numbers as a list of at most three, or as a range: `4,000`, `500 to 8,000`."""
    if not values:
        return MISSING
    if len(values) > 3:
        return f"{values[0]:,.0f} to {values[-1]:,.0f}"
    return ", ".join(f"{value:,.0f}" for value in values)


def rate_name(rate: float) -> str:
    """A learning rate: `0.0003`, `1e-05`."""
    return f"{rate:g}"


def share_name(share: float) -> str:
    """A whole percentage: `80 %`."""
    return f"{100 * share:.0f}{THIN}%"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int) -> str:
    """A Markdown table whose first `text_columns` are set left and the others right."""
    rule = ["---" if number < text_columns else "--:" for number in range(len(headings))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, rule, *rows))


def picture(path: str, description: str) -> str:
    """A Markdown image with its description for those who cannot see it."""
    return f"![{description}]({path})"


def enumeration(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]


def _interval(estimate: Estimate, places: int) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    if estimate.basis == "seeds":
        return f"{HARD}±{HARD}{fixed((estimate.high - estimate.low) / 2.0, places)}"
    return _brackets(estimate, places)


def _brackets(estimate: Estimate, places: int) -> str:
    return f"{HARD}[{fixed(estimate.low, places)},{HARD}{fixed(estimate.high, places)}]"

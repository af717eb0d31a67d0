"""How a number decides a claim: by its whole interval, against a stated limit. Knows no claim."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Sequence

from experiments.harness.statistics import Estimate
from experiments.harness.text import basis


class Verdict(enum.Enum):
    """What the numbers say of a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    OPEN = "undecided"
    MISSING = "not measured"

    def told(self, count: int) -> str:
        """What so many claims do: `1 holds`, `2 do not hold`."""
        one, more = _TOLD[self]
        return f"{count} {one if count == 1 else more}"


_TOLD = {
    Verdict.HOLDS: ("holds", "hold"),
    Verdict.FAILS: ("does not hold", "do not hold"),
    Verdict.OPEN: ("is undecided", "are undecided"),
    Verdict.MISSING: ("is not measured", "are not measured"),
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One of our figures and what it says of its part of a claim."""

    label: str
    figure: str
    verdict: Verdict
    estimate: Estimate | None = None
    wanted: tuple[float, float] | None = None
    """Between which ends the estimate should lie, where its claim names them."""


def part(
    label: str,
    estimate: Estimate | None,
    verdict: Verdict,
    *,
    shown: Callable[[Estimate | None], str],
    remark: str = "",
    wanted: tuple[float, float] | None = None,
) -> Part:
    """The figure as `number (where its interval comes from; remark)`, with its verdict."""
    told = [text for text in ("" if estimate is None else basis(estimate), remark) if text]
    origin = f" ({'; '.join(told)})" if told else ""
    return Part(label, shown(estimate) + origin, verdict, estimate, wanted)


def verdict_of(parts: Sequence[Part]) -> Verdict:
    """The verdict of the whole: one failing part decides, then a missing one, then an open one."""
    found = {part.verdict for part in parts}
    for verdict in (Verdict.FAILS, Verdict.MISSING, Verdict.OPEN):
        if verdict in found:
            return verdict
    return Verdict.HOLDS


def above(estimate: Estimate | None, limit: float) -> Verdict:
    """Holds when the interval lies wholly above the limit, fails when wholly below, else open.

    An interval that touches the limit is open. Without an interval nothing is decided; without an
    estimate nothing was measured.
    """
    if estimate is None:
        return Verdict.MISSING
    if estimate.low is None or estimate.high is None:
        return Verdict.OPEN
    if estimate.low > limit:
        return Verdict.HOLDS
    return Verdict.FAILS if estimate.high < limit else Verdict.OPEN


def within(estimate: Estimate | None, low: float, high: float) -> Verdict:
    """Holds when the interval lies wholly in [low, high], fails when wholly outside, else open."""
    if estimate is None:
        return Verdict.MISSING
    if estimate.low is None or estimate.high is None:
        return Verdict.OPEN
    if low <= estimate.low and estimate.high <= high:
        return Verdict.HOLDS
    return Verdict.FAILS if estimate.high < low or estimate.low > high else Verdict.OPEN

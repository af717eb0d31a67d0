"""The metrics of a corpus by the names that recipes use, and for each which way is up.

The one place that knows whether more is better; everything that chooses or compares asks here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from seqdistill.core.families import METRICS, Metric
from seqdistill.core.registry import resolved
from seqdistill.metrics.checked import CheckedFunction
from seqdistill.metrics.score import SummedStatistics, mean_statistics
from seqdistill.metrics.scripts import SPACED, Units


@dataclasses.dataclass(frozen=True)
class CorpusMetric:
    """A score of outputs against references, 0 to 100 (an error rate can be more)."""

    name: str
    """The one that recipes use."""
    statistics: Callable[[Sequence[str], Sequence[str]], SummedStatistics]
    """Outputs and references to rows whose sum gives the score."""
    higher_is_better: bool
    compares_with: Callable[[str], bool]
    """Whether a text can be a reference: not every text holds an answer."""
    title: str
    """What people call it, where that is not its name."""

    def score_key(self, value: float) -> float:
        """The value so that more is better: itself, or its negative for an error rate."""
        return value if self.higher_is_better else -value


def in_units(unit: tuple[str, str] | None, units: Units) -> dict[str, object]:
    """The keyword by which a metric or reward is told what texts are counted in."""
    return {} if unit is None else {unit[0]: getattr(units, unit[1])}


def corpus_metrics(units: Units = SPACED) -> dict[str, CorpusMetric]:
    """Every metric by its name, counting in these units; those of plug-ins, too."""
    return {
        name: CorpusMetric(
            name,
            functools.partial(_statistics, member, units),
            member.higher_is_better,
            functools.partial(_compares, member),
            member.title,
        )
        for name, member in METRICS.items()
    }


def _statistics(
    member: Metric, units: Units, outputs: Sequence[str], references: Sequence[str]
) -> SummedStatistics:
    """Of a metric of the user's own: its statistics, or numbers whose mean is the score."""
    function: Callable[..., Any] = functools.partial(
        member.function, **in_units(member.unit, units)
    )
    if not isinstance(member.target, str):
        function = CheckedFunction("metric", member.name, function)
    found = function(outputs, references)
    if isinstance(found, SummedStatistics):
        return found
    target = member.function
    signature = f"mean|{target.__module__}:{target.__qualname__}"
    return mean_statistics(member.name, signature, found)


def _compares(member: Metric, text: str) -> bool:
    return member.compares_with is None or bool(resolved(member.compares_with)(text))


LOSS = "loss_nats"
"""What dev scores call the mean nats a token of the references: it can choose, but is no score of
outputs."""


def score_key_of(name: str) -> Callable[[float], float]:
    """How the values of a metric, or of LOSS, are turned so that more is better."""
    if name == LOSS:
        return lambda nats: -nats
    return corpus_metrics()[name].score_key

"""Collapse alarms: numbers that were watched lie outside their limits for several looks in a row.

Looks at sums over all processes, so that all come to the same end. Measures nothing: sources,
monitors and dev scores do.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping
from typing import Any

from seqdistill.core.token_sum import TokenSum
from seqdistill.recipe.schema import AlarmsSection

_SIGNS = {
    "student_entropy": "the student is almost sure of every token that it writes",
    "student_topk_overlap": "the student expects tokens that its teacher finds unlikely",
    "teacher_topk_overlap": "the teacher expects tokens that the student finds unlikely",
    "distinct_2": "outputs for different prompts are alike",
    "repetition_4": "outputs repeat themselves",
    "completion_length": "outputs have become much longer or shorter",
    "cut_fraction": "outputs do not end: no end of sequence before the longest length",
}
"""What is watched, by the names of metrics, and what it means where it is outside."""
_RECOVERING = 0.9
"""A number this much nearer to its limit than it was when the row of looks began is coming back."""
_ANY = (-math.inf, math.inf)


@dataclasses.dataclass(frozen=True)
class Alarm:
    """One number that has left its limits for good."""

    quantity: str
    value: float
    limit: float
    looks: int

    def text(self, update: int) -> str:
        """A sentence for people."""
        beyond = "below" if self.value < self.limit else "above"
        return (
            f"collapse alarm at update {update:,}: {_SIGNS[self.quantity.removeprefix('dev_')]} "
            f"({self.quantity} is {self.value:.3g}, {beyond} {self.limit:.3g}, at {self.looks} "
            "looks in a row)"
        )


class CollapseWatch:
    """Looks at the metrics of a run, as `AlarmsSection` says.

    Batches are of sequences of like length, so a look is a mean over several updates. `references`
    are the same numbers of the sequences that the student is to write like, where there are any.
    Looks up to the update `after` only tell how it began. An alarm is raised when the row of looks
    is long enough and not coming back, and again only after the number was within its limits.
    """

    def __init__(
        self,
        settings: AlarmsSection,
        references: Mapping[str, float],
        *,
        after: int,
        prefix: str = "",
    ) -> None:
        """`prefix` stands before the names in the metrics: `dev_`."""
        self._settings, self._references = settings, references
        self._after, self._prefix = after, prefix
        self._first: dict[str, list[float]] = {}
        self._outside: dict[str, list[float]] = {}
        self._raised: set[str] = set()
        self._sums: dict[str, list[float]] = {}
        self._looked_at = 0

    def add(self, update: int, sums: Mapping[str, TokenSum]) -> list[Alarm]:
        """One more update with what was measured in it; the alarms where it is time to look."""
        for name in (*_SIGNS, "teacher_entropy"):
            if name in sums:
                before = self._sums.get(name, [0.0, 0.0])
                found = float(sums[name].total), float(sums[name].count)
                self._sums[name] = [a + b for a, b in zip(before, found, strict=True)]
        if update - self._looked_at < self._settings.every:
            return []
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums, self._looked_at = {}, update
        return self.look(update, means)

    def look(self, update: int, values: Mapping[str, float | None]) -> list[Alarm]:
        """The alarms that these metrics raise; what was not measured now is passed over."""
        if self._settings.action == "none":
            return []
        looks, found = self._settings.looks, []
        for name in _SIGNS:
            value = values.get(self._prefix + name)
            if value is None or not math.isfinite(value):
                continue
            first = self._first.setdefault(name, [])
            if len(first) < looks:
                first.append(value)
            low, high = self._limits(name, values)
            distance = max(low - value, value - high)
            if update <= self._after or distance <= 0.0:
                self._outside.pop(name, None)
                self._raised.discard(name)
                continue
            row = self._outside[name] = [*self._outside.get(name, ()), distance][-looks:]
            if name in self._raised or len(row) < looks:
                continue
            if looks == 1 or row[-1] > _RECOVERING * row[0]:
                self._raised.add(name)
                limit = low if value < low else high
                found.append(Alarm(self._prefix + name, value, limit, looks))
        return found

    def _limits(self, name: str, values: Mapping[str, float | None]) -> tuple[float, float]:
        """The least and the most that a number may be; any where its limit needs a start that is
        not known yet."""
        limits, looks = self._settings, self._first[name]
        start = statistics.fmean(looks) if len(looks) == limits.looks else None
        reference = self._references.get(name)
        known = [one for one in (start, reference) if one is not None]
        if name == "cut_fraction" and limits.max_cut_fraction is not None:
            return -math.inf, limits.max_cut_fraction
        if name == "completion_length":
            factor = limits.max_length_factor
            return (min(known) / factor, max(known) * factor) if factor and known else _ANY
        compared = reference if reference is not None else start
        if name == "student_entropy":
            compared = values.get("teacher_entropy", start)
        if compared is None:
            return _ANY
        if name == "repetition_4":
            rise = limits.max_repetition_rise
            return _ANY if rise is None else (-math.inf, compared + rise)
        least = {
            "student_entropy": limits.min_entropy,
            "distinct_2": limits.min_distinct,
            "student_topk_overlap": limits.min_overlap,
            "teacher_topk_overlap": limits.min_overlap,
        }.get(name)
        return _ANY if least is None else (least * compared, math.inf)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, as JSON knows it."""
        return {
            "first": dict(self._first),
            "outside": dict(self._outside),
            "raised": sorted(self._raised),
            "sums": dict(self._sums),
            "looked_at": self._looked_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken; an empty one is the beginning."""
        self._first = {name: [*each] for name, each in state.get("first", {}).items()}
        self._outside = {name: [*each] for name, each in state.get("outside", {}).items()}
        self._raised = set(state.get("raised", ()))
        self._sums = {name: [*each] for name, each in state.get("sums", {}).items()}
        self._looked_at = state.get("looked_at", 0)

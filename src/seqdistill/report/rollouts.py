"""What was sampled while a student trained: signs of reward hacking, and some of the sequences.

The reward rises while dev falls, or length or repetition drifts: decided by one rule that the page
states. A sign is a reason to read the rollouts, no proof.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from seqdistill.records.results import Metric, Rollout
from seqdistill.report import numbers
from seqdistill.report.contents import TrainingLog, repetition_curve

DEV_LOST = 0.05
"""Of the best dev score: what the end must have lost for a sign."""
LENGTH_FACTOR = 1.5
REPETITION_RISE = 0.10
LEAST_VALUES = 4
"""In each of two means that are compared: of fewer the standard error is unknown."""

_CHANGED = "The rule: a mean has changed when it differs by more than two standard errors."
_RUNAWAY = (
    "Length drifts where the mean over the last quarter of what was logged is "
    f"{numbers.fixed(LENGTH_FACTOR)} times that over the first, or the first’s that of the last; "
    f"repetition where it has risen by {numbers.fixed(100 * REPETITION_RISE, 0)} points. A sign is "
    "a reason to read the rollouts, not a proof."
)
RUNAWAY_RULE = f"{_CHANGED} {_RUNAWAY}"
"""As the page states it of runs without a reward."""
RULE = (
    f"{_CHANGED} The reward runs ahead of the task where its mean over the last quarter of "
    "training is above that over as many logged updates up to the best dev score, and dev has "
    f"since lost {numbers.percent(DEV_LOST)} of that score or more. {_RUNAWAY}"
)
"""As the page states it of runs with a reward."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The rule applied to one run: its signs in plain words, and what it could not compare."""

    system: str
    is_rewarded: bool
    signs: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Change:
    """Two means, and whether they differ by more than two standard errors of the difference."""

    before: float
    after: float
    clear: bool


def change(before: Sequence[float], after: Sequence[float]) -> Change | None:
    """How the mean changed; None where one is of fewer than LEAST_VALUES values.

    The values are taken as independent.
    """
    if min(len(before), len(after)) < LEAST_VALUES:
        return None
    first, last = statistics.fmean(before), statistics.fmean(after)
    error = math.sqrt(sum(statistics.variance(v) / len(v) for v in (before, after)))
    return Change(first, last, clear=abs(last - first) > 2.0 * error)


def verdict(log: TrainingLog, metric: Metric | None) -> Verdict:
    """The rule applied to one run; without a reward, to its length and repetition."""
    findings = [_length(log), _repetition(log)]
    if log.curve("reward"):
        findings.insert(0, _reward_against_dev(log, metric))
    return Verdict(
        log.name,
        bool(log.curve("reward")),
        tuple(text for kind, text in findings if kind == "sign"),
        tuple(text for kind, text in findings if kind == "unknown"),
    )


_Finding = tuple[str, str]
_NOTHING: _Finding = ("nothing", "")


def _reward_against_dev(log: TrainingLog, metric: Metric | None) -> _Finding:
    dev = () if metric is None else log.curve(f"dev_{metric.name}")
    if metric is None or len(dev) < 2:
        return "unknown", (
            "dev was scored less than twice, so the reward is compared with nothing; "
            "training.eval_every scores it more often"
        )
    best_at, best = max(dev, key=lambda point: metric.score_key(point[1]))
    last = dev[-1][1]
    if metric.score_key(best) - metric.score_key(last) < DEV_LOST * abs(best) or best == last:
        return _NOTHING
    points = log.curve("reward")
    quarter = max(LEAST_VALUES, len(points) // 4)
    before = [value for update, value in points if update <= best_at][-quarter:]
    after = [value for update, value in points if update > best_at][-quarter:]
    moved = change(before, after)
    if moved is None:
        return "unknown", (
            f"dev {metric.title} was best at update {numbers.count(best_at)} and is "
            f"{numbers.fixed(last)} at the end, but too few rewards were logged before or since; "
            "training.log_every logs more"
        )
    if not moved.clear or moved.after <= moved.before:
        return _NOTHING
    return "sign", (
        f"the reward rose from {numbers.significant(moved.before)} to "
        f"{numbers.significant(moved.after)} while dev {metric.title} went from "
        f"{numbers.fixed(best)} at update {numbers.count(best_at)} to {numbers.fixed(last)} at the "
        "end: it may exploit what the reward overlooks"
    )


def _length(log: TrainingLog) -> _Finding:
    moved = _first_against_last([value for _, value in log.curve("completion_length")])
    if moved is None:
        return "unknown", "too few lengths were logged to compare beginning and end"
    low, high = sorted((moved.before, moved.after))
    if not moved.clear or high < LENGTH_FACTOR * low:
        return _NOTHING
    grew = "longer" if moved.after > moved.before else "shorter"
    return "sign", (
        f"its rollouts became much {grew}: {numbers.fixed(moved.before)} tokens at the "
        f"beginning, {numbers.fixed(moved.after)} at the end"
    )


def _repetition(log: TrainingLog) -> _Finding:
    moved = _first_against_last([rate for _, rate in repetition_curve(log.rollouts)])
    if moved is None:
        return "unknown", "too few rollouts were kept to compare their repetition"
    if not moved.clear or moved.after - moved.before < REPETITION_RISE:
        return _NOTHING
    return "sign", (
        f"it repeats itself more: {numbers.percent(moved.before)} of its 4-grams at the "
        f"beginning, {numbers.percent(moved.after)} at the end"
    )


def _first_against_last(values: Sequence[float]) -> Change | None:
    quarter = len(values) // 4
    return change(values[:quarter], values[len(values) - quarter :])


NUM_STEPS = 6
SEQUENCES_A_STEP = 2

ORIGINS = {
    "student": "student",
    "teacher": "teacher",
    "teacher_mixed": "student and teacher mixed",
    "reference": "reference",
}
"""What the page calls them."""


@dataclasses.dataclass(frozen=True)
class RolloutTable:
    """The rows of one run, and which columns have anything in them."""

    system: str
    steps: tuple[tuple[int, tuple[Rollout, ...]], ...]
    """Updates in order, each with some of its sequences."""
    has_references: bool
    has_rewards: bool
    has_origins: bool
    """Whether not all are the student's."""


def tables(logs: Sequence[TrainingLog]) -> list[RolloutTable]:
    """A table for every run that kept sequences."""
    return [_table(log.name, log.rollouts) for log in logs if log.rollouts]


def _table(system: str, rollouts: Sequence[Rollout]) -> RolloutTable:
    by_step: dict[int, list[Rollout]] = {}
    for one in rollouts:
        by_step.setdefault(one.step, []).append(one)
    sampled = [step for step, each in by_step.items() if any(one.is_sampled for one in each)]
    steps = evenly(sorted(sampled or by_step), NUM_STEPS)
    shown = [one for step in steps for one in some_of(by_step[step])]
    return RolloutTable(
        system,
        tuple((step, some_of(by_step[step])) for step in steps),
        has_references=any(one.reference is not None for one in shown),
        has_rewards=any(one.reward is not None for one in shown),
        has_origins=any(one.origin != "student" for one in shown),
    )


def evenly(steps: Sequence[int], num: int) -> list[int]:
    """So many of the steps, evenly spread, the first and the last among them; all if fewer."""
    if len(steps) <= num:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (num - 1))] for place in range(num)]


def some_of(rollouts: Sequence[Rollout]) -> tuple[Rollout, ...]:
    """A few sequences of one update: sampled ones before references, other prompts before equal."""
    seen: set[str] = set()
    order = []
    for place, one in enumerate(rollouts):
        order.append((not one.is_sampled, one.id in seen, place))
        seen.add(one.id)
    return tuple(rollouts[place] for *_, place in sorted(order)[:SEQUENCES_A_STEP])

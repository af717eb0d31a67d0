"""Some of the sequences of a training run, from the first updates to the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqdistill.records.results import Rollout
from seqdistill.report.contents import TrainingLog

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

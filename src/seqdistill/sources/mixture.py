"""Sequences by a coin: the student's or another's (GKD's lambda), fresh ones or kept ones (replay).

A mixture's prompts are the same whatever the fraction; a batch from memory brings its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from seqdistill.core.errors import RecipeError
from seqdistill.core.generators import derived_seed, named_generator
from seqdistill.core.schedules import Schedule
from seqdistill.core.terms import OTHERS_DIVERGENCE, OWN_DIVERGENCE
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.recipe.sequences_schema import AdaptiveSection, MeasuredSection
from seqdistill.sources.completions import (
    CompletionSource,
    Gather,
    PromptCompletions,
    Prompts,
    SourcePart,
    alone,
    metric_sum,
)

_MEASURED = (OWN_DIVERGENCE, OTHERS_DIVERGENCE)
Coin = Literal["batch", "example", "both"]


def _coin(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on the seed and the name alone."""
    return (derived_seed(seed, name) >> 10) / 2**53


class AdaptiveFraction(SourcePart):
    """A fraction that rises by `step` whenever dev's loss is worse by at least `threshold` nats.

    Worse than it was at the last rise, and until there is one, than the first dev loss, which is
    only remembered. So losses that creep up add up, and one that fell first has that far to go. The
    fraction never falls, and stays at `end`.

    Source: more of the student's sequences when dev gets worse is the paper's idea (Ko et al. 2024,
    DistiLLM, sec. 3.2, adaptive off-policy). Step, threshold and what the loss is compared with are
    its code's; there the first loss is measured before training, here at the first dev score.
    """

    def __init__(self, settings: AdaptiveSection) -> None:
        self.settings = settings
        self._fraction = settings.start
        self._previous: float | None = None

    def value(self, update: int, updates: int) -> float:
        """The fraction as dev has left it."""
        return self._fraction

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Raises the fraction where it is due. Raises RecipeError for scores without a loss."""
        if "loss_nats" not in scores:
            raise RecipeError(
                "An adaptive student_fraction must be told dev's loss, but the dev scores are "
                f"{', '.join(sorted(scores)) or 'none'}; give dev data with targets, or a fraction "
                "that follows a schedule"
            )
        loss = float(scores["loss_nats"])
        if self._previous is None:
            self._previous = loss
        elif loss >= self._previous + self.settings.threshold:
            self._fraction = min(self.settings.end, self._fraction + self.settings.step)
            self._previous = loss

    def state_dict(self) -> dict[str, Any]:
        """The fraction and the dev loss that others are compared with: the last rise's."""
        return {"fraction": self._fraction, "previous": self._previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._fraction, self._previous = state["fraction"], state["previous"]


class MeasuredFraction(SourcePart):
    """own / (own + others): the part of the divergence that is met on the student's own sequences.

    Own and others are exponential means of the divergence from the teacher per token, on the
    student's sequences and on the others. So the student samples the more, the farther it is from
    its teacher where its samples lead, and half where both are alike. To learn from its own lowers
    the first mean, so that the fraction comes to rest. It is kept `within`, and in the middle until
    both were measured. The means begin as the first value and move by 1 / `time_constant` toward
    each later one, in the updates that have such sequences.

    Source: ours. Agarwal et al. 2024 (GKD) find that the best lambda depends on the task and leave
    open how to choose it; no public text fixes a rule.
    """

    def __init__(self, settings: MeasuredSection) -> None:
        self.settings = settings
        self._means: dict[str, float] = {}

    def value(self, update: int, updates: int) -> float:
        """The fraction as the updates so far have left it."""
        low, high = self.settings.within
        whole = sum(self._means.values())
        if len(self._means) < len(_MEASURED) or whole == 0.0:
            return (low + high) / 2.0
        return min(max(self._means[OWN_DIVERGENCE] / whole, low), high)

    def learned(self, parts: Mapping[str, TokenSum]) -> None:
        """Moves the means of what the update had."""
        for name in _MEASURED:
            mean = parts[name].mean
            if math.isfinite(mean):
                before = self._means.get(name, mean)
                self._means[name] = before + (mean - before) / self.settings.time_constant

    def state_dict(self) -> dict[str, Any]:
        """The means that there are."""
        return {"means": dict(self._means)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._means = dict(state["means"])


Fraction = Schedule | AdaptiveFraction | MeasuredFraction
"""A number in [0, 1] with a `value` at each update."""


@dataclasses.dataclass(eq=False)
class MixtureSource(CompletionSource):
    """The student where a coin u < fraction, the other source elsewhere.

    `batch`: one coin for the whole batch of an update, so for all its micro-batches on all
    processes (Agarwal et al. 2024, algorithm 1). `example`: one for each prompt (Lin et al. 2020,
    ImitKD). `both`: no coin, every prompt is answered by both (Ko et al. 2025, DistiLLM-2).
    No coin knows its process, and a resumed run needs no state of theirs.

    Metrics of `other` have names that begin with `other_`.
    """

    student: CompletionSource
    other: CompletionSource
    fraction: Fraction
    _: dataclasses.KW_ONLY
    coin: Coin
    seed: int

    def __post_init__(self) -> None:
        self._update, self._fraction = 0, 0.0
        self._num_student, self._num_all = 0, 0

    @property
    def sequences_per_prompt(self) -> int:
        """The larger number of the two; of both together with coin `both`."""
        if self.coin == "both":
            return self.student.sequences_per_prompt + self.other.sequences_per_prompt
        return super().sequences_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """Looks up the fraction."""
        self._update = update
        self._fraction = self.fraction.value(update, updates)
        self._num_student, self._num_all = 0, 0
        super().begin_update(update, updates)

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """First the student's sequences, then the other's, in each micro-batch."""
        for_student = for_other = [[*prompts] for prompts in batches]
        if self.coin != "both":
            for_student = [[p for p in of if self._goes_to_student(p)] for of in batches]
            for_other = [[p for p in of if not self._goes_to_student(p)] for of in batches]
        # Both are asked for every micro-batch, for nothing if need be, and stay in step.
        of_student = self.student.complete_all(for_student)
        of_other = self.other.complete_all(for_other)
        self._num_student += sum(map(len, of_student))
        self._num_all += sum(map(len, of_student + of_other))
        pairs = zip(of_student, of_other, strict=True)
        return [PromptCompletions.concatenated(pair) for pair in pairs]

    def _goes_to_student(self, prompt: EncodedExample) -> bool:
        whose = "" if self.coin == "batch" else f"/{prompt.id}"
        return _coin(self.seed, f"mixture/update-{self._update}{whose}") < self._fraction

    def end_update(self) -> dict[str, TokenSum]:
        """The metrics of both, `student_fraction` as the recipe has it at this update, and
        `realized_student_share`: what the coins made of it, of the sequences written."""
        return {
            **self.student.end_update(),
            **{f"other_{name}": value for name, value in self.other.end_update().items()},
            "student_fraction": metric_sum(self._fraction, 1),
            "realized_student_share": metric_sum(self._num_student, self._num_all),
        }


@dataclasses.dataclass(eq=False)
class ReplaySource(CompletionSource):
    """Fresh rollouts with probability `fresh_fraction`, else kept ones.

    One coin an update, the same on every process, so that none waits for another's rollouts. Fresh
    rollouts of all processes are kept by each when the update ends; of more than `capacity` the
    oldest go, and so does what is older than `max_age` updates. As many are drawn as the prompts
    would have got, of those kept by earlier updates, uniformly and without replacement within a
    micro-batch; while they are too few, all are fresh, and the metrics say so.
    A memory that no batch fits in could never be drawn from, so it is refused. n processes draw
    what n micro-batches of one do.

    Source: Ko et al. 2024 (DistiLLM), sec. 3.2; there fresh_fraction falls linearly from 1 to 0,
    with a capacity of 1000 and no limit of age, and its code lets all be fresh until the memory is
    full.
    """

    student: CompletionSource
    _: dataclasses.KW_ONLY
    capacity: int
    max_age: int
    fresh_fraction: Schedule
    seed: int
    rank: int = 0
    world_size: int = 1
    gather: Gather = alone

    def __post_init__(self) -> None:
        self._kept: PromptCompletions | None = None  # oldest first, none of this update
        self._written: list[PromptCompletions | None] = []  # of this update's micro-batches
        self._update = 0
        self._fraction, self._is_fresh = 1.0, True
        self._num_fresh, self._num_all, self._ages = 0, 0, 0

    def begin_update(self, update: int, updates: int) -> None:
        """Drops what is too old and throws the coin."""
        self._update, self._written = update, []
        self._num_fresh, self._num_all, self._ages = 0, 0, 0
        if self._kept is not None:
            sampled_at = self._kept.sampled_at_update
            young = [row for row, at in enumerate(sampled_at) if at >= update - self.max_age]
            self._kept = self._kept.select(young)
        self._fraction = self.fresh_fraction.value(update, updates)
        self._is_fresh = _coin(self.seed, f"replay/update-{update}") < self._fraction
        super().begin_update(update, updates)

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """Rollouts of these prompts, or kept ones of others, none older than the limit.

        Raises RecipeError for a batch of more sequences than can be kept.
        """
        counts = [len(prompts) * self.student.sequences_per_prompt for prompts in batches]
        if (most := max(counts, default=0)) > self.capacity:
            raise RecipeError(
                "sequences.replay.capacity must be at least the sequences of a micro-batch, since "
                f"one is drawn whole, got {self.capacity} and a micro-batch of {most}; raise "
                "it, or lower training.batch_tokens"
            )
        drawn = [
            self._drawn(count, place) for place, count in enumerate(counts, len(self._written))
        ]
        # Asked for nothing where it need not write: it stays in step with the micro-batches.
        asked = [
            prompts if kept is None else [] for prompts, kept in zip(batches, drawn, strict=True)
        ]
        fresh = self.student.complete_all(asked)
        self._written += [
            one if kept is None else None for one, kept in zip(fresh, drawn, strict=True)
        ]
        self._num_fresh += sum(map(len, fresh))
        found = [one if kept is None else kept for one, kept in zip(fresh, drawn, strict=True)]
        self._num_all += sum(map(len, found))
        self._ages += sum(self._update - at for one in found for at in one.sampled_at_update)
        return found

    def _drawn(self, count: int, place: int) -> PromptCompletions | None:
        """So many kept ones for this process's micro-batch at that place; None for fresh ones."""
        if self._kept is None or self._is_fresh or len(self._kept) < count:
            return None
        name = f"replay/update-{self._update}/batch-{place * self.world_size + self.rank}"
        order = torch.randperm(len(self._kept), generator=named_generator(self.seed, name))
        return self._kept.select(order[:count].tolist())

    def end_update(self) -> dict[str, TokenSum]:
        """The student's metrics, `staleness` in updates (fresh ones count as 0), `fresh_fraction`
        as the schedule has it and `realized_fresh_fraction` of the sequences that there were, and
        `replay_size`, the number of kept sequences."""
        self._keep()
        return {
            **super().end_update(),
            "staleness": metric_sum(self._ages, self._num_all),
            "fresh_fraction": metric_sum(self._fraction, 1),
            "realized_fresh_fraction": metric_sum(self._num_fresh, self._num_all),
            "replay_size": metric_sum(0 if self._kept is None else len(self._kept), 1),
        }

    def _keep(self) -> None:
        """Puts what all processes wrote into the memory, in the order of the micro-batches."""
        own = [
            found and dataclasses.replace(found, completions=found.completions.cpu())
            for found in self._written
        ]
        by_batch = [one for batch in zip(*self.gather(own), strict=True) for one in batch if one]
        parts = by_batch if self._kept is None else [self._kept, *by_batch]
        if parts:
            kept = PromptCompletions.concatenated(parts)
            self._kept = kept.select(range(max(0, len(kept) - self.capacity), len(kept)))

    def state_dict(self) -> dict[str, Any]:
        """All kept sequences, and the student's state."""
        kept = None if self._kept is None else self._kept.state_dict()
        return {"kept": kept, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        kept = state["kept"]
        self._kept = None if kept is None else PromptCompletions.from_state_dict(kept)
        super().load_state_dict(state)

"""Rewards for the student's sequences, less a baseline that does not change the gradient's mean.

The reward is a function of sequences, and objectives read the advantages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from seqdistill.core.token_sum import TokenSum
from seqdistill.sources.completions import (
    Completion,
    CompletionSource,
    Gather,
    PromptCompletions,
    Prompts,
    alone,
    metric_sum,
)

Baseline = Literal["leave_one_out", "moving_average", "none"]
Reward = Callable[[Sequence[Completion]], Sequence[float]]

# Of the average before, in the moving average of each update's mean reward: it remembers about ten
# updates, and half of it is gone after seven.
_MOMENTUM = 0.9


@dataclasses.dataclass(eq=False)
class RewardedSource(CompletionSource):
    """Another source whose rollouts get a reward and an advantage: reward less baseline.

    `leave_one_out`: the mean reward of the other samples of the same prompt in the micro-batch
    (Kool et al. 2019). `moving_average`: an average over earlier updates, 0.9 of what it was and
    0.1 of the update's mean, which at first it is; the same for all micro-batches and processes. In
    the first update, and until there was a reward, the mean of the other sequences of the
    micro-batch, 0 for a single one. `none`: 0.

    No baseline of a sequence knows that sequence's own reward, and samples are independent, so the
    mean of the gradient is that of the expected reward.

    Only what the student had a part in is rewarded. Other sequences get the advantage 0: they are
    not its actions, so their reward has nothing to teach it. So a mixture is wrapped as a whole,
    and every batch has advantages.
    """

    source: CompletionSource
    reward: Reward
    _: dataclasses.KW_ONLY
    baseline: Baseline
    gather: Gather = alone

    def __post_init__(self) -> None:
        self._average: float | None = None
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def begin_update(self, update: int, updates: int) -> None:
        """Forgets the rewards of the update before."""
        self._seen = []
        super().begin_update(update, updates)

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """The sequences with rewards and advantages."""
        return [self._rewarded(found) for found in self.source.complete_all(batches)]

    def _rewarded(self, found: PromptCompletions) -> PromptCompletions:
        rows = found.students_rows
        acted = found.select(rows)
        given = self.reward(acted.listed()) if len(acted) else []
        own = torch.tensor(given, dtype=torch.float64)
        names = {
            name: place for place, name in enumerate(dict.fromkeys(p.id for p in acted.prompts))
        }
        groups = torch.tensor([names[p.id] for p in acted.prompts], dtype=torch.long)
        gained = own - self._baselines(own, groups)
        self._seen.append((own, gained, _spreads(own, groups)))
        rewards = torch.full((len(found),), torch.nan, dtype=torch.float64)
        advantages = torch.zeros(len(found), dtype=torch.float64)
        rewards[rows], advantages[rows] = own, gained
        return dataclasses.replace(found, rewards=rewards, advantages=advantages)

    def _baselines(
        self, rewards: Float[Tensor, " sequences"], groups: Int[Tensor, " sequences"]
    ) -> Float[Tensor, " sequences"]:
        if self.baseline == "none":
            return torch.zeros_like(rewards)
        if self.baseline == "moving_average":
            if self._average is not None:
                return torch.full_like(rewards, self._average)
            groups = torch.zeros_like(groups)
        counts = torch.bincount(groups)
        is_alone = self.baseline == "leave_one_out" and bool((counts < 2).any())
        assert not is_alone, "recipes sample twice or more for it"
        totals = torch.bincount(groups, weights=rewards)
        return (totals[groups] - rewards) / (counts[groups] - 1).clamp(min=1)

    def end_update(self) -> dict[str, TokenSum]:
        """The source's metrics, `reward`, `reward_std_within_prompt` (over prompts with several
        samples) and `absolute_advantage`, means all of them."""
        empty = [torch.zeros(0, dtype=torch.float64)]
        rewards, advantages, spreads = (
            torch.cat(empty + [seen[place] for seen in self._seen]) for place in range(3)
        )
        total, count = map(
            sum, zip(*self.gather((float(rewards.sum()), len(rewards))), strict=True)
        )
        if count:
            mean = total / count
            kept = mean if self._average is None else self._average
            self._average = _MOMENTUM * kept + (1.0 - _MOMENTUM) * mean
        return {
            **super().end_update(),
            "reward": metric_sum(rewards.sum(), len(rewards)),
            "reward_std_within_prompt": metric_sum(spreads.sum(), len(spreads)),
            "absolute_advantage": metric_sum(advantages.abs().sum(), len(advantages)),
        }

    def state_dict(self) -> dict[str, Any]:
        """The moving average and the source's state."""
        return {"average": self._average, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._average = state["average"]
        super().load_state_dict(state)


def _spreads(
    rewards: Float[Tensor, " sequences"], groups: Int[Tensor, " sequences"]
) -> Float[Tensor, " prompts"]:
    """The standard deviation within each prompt that has several samples."""
    counts = torch.bincount(groups)
    means = torch.bincount(groups, weights=rewards) / counts
    squares = torch.bincount(groups, weights=(rewards - means[groups]) ** 2)
    return (squares / counts).sqrt()[counts > 1]

"""Rewards for what the student wrote, less a baseline that does not change the gradient's mean.

Does not know what is rewarded: the reward is a function of sequences. Pulls at no student:
objectives read the advantages.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from seqdistill.core.errors import DataError, RecipeError
from seqdistill.core.origins import STUDENT_ORIGINS
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion, CompletionSource, metric_sum

Baseline = Literal["leave_one_out", "moving_average", "none"]
Reward = Callable[[Sequence[Completion]], Sequence[float]]

# Of the average before, in the moving average of each update's mean reward: it remembers about ten
# updates, and half of it is gone after seven.
_MOMENTUM = 0.9


class RewardedSource:
    """A `CompletionSource` whose rollouts have a reward and an advantage: reward less baseline.

    `leave_one_out`: the mean reward of the other samples of the same prompt in the micro-batch
    (Kool et al. 2019). `moving_average`: an average over earlier updates, 0.9 of what it was and
    0.1 of the update's mean, which at first it is; the same for all micro-batches of an update. In
    the first update, and until there was a reward, the mean of the other sequences of the
    micro-batch, 0 for a single one. Each process has its own. `none`: 0.

    No baseline of a sequence knows that sequence's own reward, and samples are independent, so the
    mean of the gradient is that of the expected reward.

    Only what the student had a part in writing is rewarded. Other sequences get the advantage 0:
    they are not its actions, so their reward has nothing to teach it. So a mixture is wrapped as a
    whole, and every batch has advantages.
    """

    def __init__(self, writer: CompletionSource, reward: Reward, *, baseline: Baseline) -> None:
        """Raises RecipeError for `leave_one_out` with one sample a prompt."""
        self._writer = writer
        self._reward = reward
        self._baseline: Baseline = baseline
        if baseline == "leave_one_out" and writer.sequences_per_prompt < 2:
            raise _too_few_samples(1)
        self._average: float | None = None
        self._rewards: list[float] = []
        self._advantages: list[float] = []
        self._spreads: list[float] = []

    @property
    def sequences_per_prompt(self) -> int:
        """As many as are written."""
        return self._writer.sequences_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """Forgets the rewards of the update before."""
        self._rewards, self._advantages, self._spreads = [], [], []
        self._writer.begin_update(update, updates)

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """What the writer wrote, with rewards and advantages.

        Raises DataError for a reward that is not finite and RecipeError for a reward function that
        does not give one reward a sequence.
        """
        written = self._writer.write(prompts)
        acted = [one for one in written if one.origin in STUDENT_ORIGINS]
        rewards = self._rewards_of(acted)
        advantages = [r - b for r, b in zip(rewards, self._baselines(acted, rewards), strict=True)]
        self._count(acted, rewards, advantages)
        pairs = iter(zip(rewards, advantages, strict=True))
        return [
            _with_reward(one, *next(pairs))
            if one.origin in STUDENT_ORIGINS
            else dataclasses.replace(one, advantage=0.0)
            for one in written
        ]

    def _rewards_of(self, written: Sequence[Completion]) -> list[float]:
        if not written:
            return []
        rewards = [float(reward) for reward in self._reward(written)]
        if len(rewards) != len(written):
            raise RecipeError(
                "A reward function must give one number per sequence, but it gave "
                f"{len(rewards)} for {len(written)}; fix it"
            )
        for one, reward in zip(written, rewards, strict=True):
            if not math.isfinite(reward):
                raise DataError(
                    f"Rewards must be finite, but that of the student's answer to "
                    f"{one.example.id!r} is {reward}; fix the reward function, or take the "
                    "example out of the data."
                )
        return rewards

    def _baselines(self, written: Sequence[Completion], rewards: Sequence[float]) -> list[float]:
        if self._baseline == "none":
            return [0.0] * len(rewards)
        if self._baseline == "moving_average":
            if self._average is not None:
                return [self._average] * len(rewards)
            others = max(1, len(rewards) - 1)
            return [(sum(rewards) - reward) / others for reward in rewards]
        totals: dict[str, float] = collections.defaultdict(float)
        counts = collections.Counter(one.example.id for one in written)
        for one, reward in zip(written, rewards, strict=True):
            totals[one.example.id] += reward
        if counts and min(counts.values()) < 2:
            raise _too_few_samples(min(counts.values()))
        return [
            (totals[one.example.id] - reward) / (counts[one.example.id] - 1)
            for one, reward in zip(written, rewards, strict=True)
        ]

    def _count(
        self, written: Sequence[Completion], rewards: Sequence[float], advantages: Sequence[float]
    ) -> None:
        self._rewards += rewards
        self._advantages += advantages
        of_prompts: dict[str, list[float]] = collections.defaultdict(list)
        for one, reward in zip(written, rewards, strict=True):
            of_prompts[one.example.id].append(reward)
        self._spreads += [statistics.pstdev(each) for each in of_prompts.values() if len(each) > 1]

    def end_update(self) -> dict[str, TokenSum]:
        """The writer's facts, `reward`, `reward_std_within_prompt` (over prompts with several
        samples) and `absolute_advantage`, means all of them."""
        if self._rewards:
            mean = statistics.fmean(self._rewards)
            kept = mean if self._average is None else self._average
            self._average = _MOMENTUM * kept + (1.0 - _MOMENTUM) * mean
        return {
            **self._writer.end_update(),
            "reward": metric_sum(sum(self._rewards), len(self._rewards)),
            "reward_std_within_prompt": metric_sum(sum(self._spreads), len(self._spreads)),
            "absolute_advantage": metric_sum(
                sum(map(abs, self._advantages)), len(self._advantages)
            ),
        }

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Handed on."""
        self._writer.dev_scored(scores)

    def state_dict(self) -> dict[str, Any]:
        """The moving average and the writer's state."""
        return {"average": self._average, "writer": self._writer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` was taken."""
        self._average = state["average"]
        self._writer.load_state_dict(state["writer"])


def _with_reward(one: Completion, reward: float, advantage: float) -> Completion:
    return dataclasses.replace(one, reward=reward, advantage=advantage)


def _too_few_samples(found: int) -> RecipeError:
    return RecipeError(
        "The baseline leave_one_out compares samples of one prompt, so samples_per_prompt must be "
        f"at least 2, got {found}; raise it, or use baseline: moving_average"
    )

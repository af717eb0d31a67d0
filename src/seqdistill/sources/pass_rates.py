"""Pass rates of an update's own rollouts, for the token weight that reads them as a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from seqdistill.core.families import OF_ROLLOUTS
from seqdistill.core.token_sum import TokenSum
from seqdistill.sources.completions import (
    CompletionSource,
    PromptCompletions,
    Prompts,
    metric_sum,
)


@dataclasses.dataclass(eq=False)
class PassRatedSource(CompletionSource):
    """A source of rewarded rollouts whose prompts get the column `rollout_pass_rate`.

    It is the fraction of the prompt's rollouts in the micro-batch with a reward of at least
    `threshold`. The very rollouts that are learned from are counted, so the weight depends on them;
    it has no gradient.
    """

    source: CompletionSource
    threshold: float = 1.0

    def __post_init__(self) -> None:
        self._seen: list[float] = []

    def begin_update(self, update: int, updates: int) -> None:
        """Forgets the rates of the update before."""
        self._seen = []
        super().begin_update(update, updates)

    def complete_all(self, batches: Sequence[Prompts]) -> list[PromptCompletions]:
        """The sequences, all of them rewarded."""
        return [self._rated(found) for found in self.source.complete_all(batches)]

    def _rated(self, found: PromptCompletions) -> PromptCompletions:
        assert found.rewards is not None, "wrapped around a source of rewards"
        passed: dict[str, list[bool]] = {}
        for prompt, reward in zip(found.prompts, found.rewards.tolist(), strict=True):
            passed.setdefault(prompt.id, []).append(reward >= self.threshold)
        rates = {name: sum(each) / len(each) for name, each in passed.items()}
        self._seen += rates.values()
        rated = (
            dataclasses.replace(prompt, extras={**prompt.extras, OF_ROLLOUTS: rates[prompt.id]})
            for prompt in found.prompts
        )
        return dataclasses.replace(found, prompts=tuple(rated))

    def end_update(self) -> dict[str, TokenSum]:
        """The source's metrics and `rollout_pass_rate`, the mean over prompts."""
        rates = torch.tensor(self._seen, dtype=torch.float64)
        return {**super().end_update(), OF_ROLLOUTS: metric_sum(rates.sum(), len(rates))}

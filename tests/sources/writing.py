"""A sampler that needs no model, and prompts: for tests of who writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tests.tiny import EOS, random_examples

from seqdistill.core.completions import Completions
from seqdistill.core.source import Source
from seqdistill.data.encoding import EncodedExample
from seqdistill.sources.completions import Completion, PromptCompletions

PROMPTS = random_examples(24)


class DiceSampler:
    """Writes 1 to 4 tokens that depend on the seed and the weights of its last refresh."""

    def __init__(self) -> None:
        self.weights = 0
        self.refreshes = 0
        self._taken = -1

    def refresh(self) -> None:
        self._taken = self.weights
        self.refreshes += 1

    def sample(self, prompts: Sequence[Source], *, seed: int) -> Completions:
        assert self._taken == self.weights, "these weights are stale"
        dice = torch.Generator().manual_seed(seed + self._taken)
        rows, ends, nats = [], [], []
        for _ in prompts:
            length = int(torch.randint(1, 5, (), generator=dice))
            ids = torch.randint(4, 40, (length,), generator=dice).tolist()
            finished = bool(torch.rand((), generator=dice) < 0.7)
            ids = [*ids[:-1], EOS] if finished else ids
            rows.append(ids)
            ends.append(finished)
            nats.append(torch.rand(length, generator=dice).log().tolist())
        return Completions.of_rows(rows, finished=ends, log_probs=nats)

    def sample_all(
        self, groups: Sequence[Sequence[Source]], *, seeds: Sequence[int]
    ) -> Completions:
        each = zip(groups, seeds, strict=True)
        return Completions.concatenated([self.sample(group, seed=seed) for group, seed in each])


def batched(rows: Sequence[Completion]) -> PromptCompletions:
    """The same sequences as one batch."""
    unknown = float("nan")
    nats = [one.sampled_log_probs or (unknown,) * len(one.example.target_ids) for one in rows]
    known = any(one.sampled_log_probs is not None for one in rows)
    advantages = [unknown if one.advantage is None else one.advantage for one in rows]
    return PromptCompletions(
        tuple(one.example for one in rows),
        Completions.of_rows(
            [one.example.target_ids for one in rows],
            finished=[one.finished for one in rows],
            log_probs=nats if known else None,
        ),
        tuple(one.origin for one in rows),
        tuple(one.sampled_at_update for one in rows),
        advantages=None
        if all(one.advantage is None for one in rows)
        else torch.tensor(advantages, dtype=torch.float64),
    )


def prompts_alone(count: int = 24) -> list[EncodedExample]:
    """The same prompts without targets."""
    return [EncodedExample(e.id, e.source_ids, ()) for e in PROMPTS[:count]]

"""A sampler that needs no model, and prompts: for tests of who writes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tests.tiny import EOS, random_examples

from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.sampling import Sample

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

    def sample(self, prompts: Sequence[Sequence[int]], *, seed: int) -> list[Sample]:
        assert self._taken == self.weights, "these weights are stale"
        dice = torch.Generator().manual_seed(seed + self._taken)
        samples = []
        for _ in prompts:
            length = int(torch.randint(1, 5, (), generator=dice))
            ids = torch.randint(4, 40, (length,), generator=dice).tolist()
            finished = bool(torch.rand((), generator=dice) < 0.7)
            ids = [*ids[:-1], EOS] if finished else ids
            log_probs = torch.rand(length, generator=dice).log().double()
            samples.append(Sample(tuple(ids), tuple(log_probs.tolist()), finished))
        return samples


def prompts_alone(count: int = 24) -> list[EncodedExample]:
    """The same prompts without targets."""
    return [EncodedExample(e.id, e.source_ids, ()) for e in PROMPTS[:count]]

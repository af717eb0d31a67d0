"""On-policy sequences: sampled from the student's weights of the very update that learns from them.

Never anything older; `replay` keeps old ones and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from seqdistill.core.completions import Completions
from seqdistill.core.errors import DataError
from seqdistill.core.generators import derived_seed
from seqdistill.core.origins import Origin
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.sampling import Sampler
from seqdistill.sources.completions import PromptCompletions, metric_sum
from seqdistill.sources.source import CompletionSource


class RolloutSampler(CompletionSource):
    """Fresh rollouts, `samples_per_prompt` of each prompt.

    The sampler takes the student's weights once an update, at its first rollouts. Random numbers
    depend on the seed, the update and the batch's place among those of all processes, so n
    micro-batches of one process are answered as those of n processes are, and a resumed run needs
    no state.

    `origin` is `student`, or `teacher_mixed` or `teacher` for a sampler of these.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        samples_per_prompt: int = 1,
        origin: Origin = "student",
    ) -> None:
        self._sampler = sampler
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._samples_per_prompt = samples_per_prompt
        self._origin: Origin = origin
        self.begin_update(0, 0)

    @property
    def sequences_per_prompt(self) -> int:
        """As many as were asked for."""
        return self._samples_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """The weights have moved: earlier rollouts are no longer on-policy."""
        self._update, self._calls = update, 0
        self._sampled: list[Completions] = []
        self._seconds, self._refresh_seconds = 0.0, list[float]()

    def complete(self, prompts: Sequence[EncodedExample]) -> PromptCompletions:
        """Rollouts, those of one prompt side by side.

        Raises DataError for a prompt that the sampler answers with nothing at all.
        """
        batch = self._calls * self._world_size + self._rank
        self._calls += 1
        asked = [prompt for prompt in prompts for _ in range(self._samples_per_prompt)]
        found = Completions.of_rows([])
        if asked:
            self._refresh()
            started = time.perf_counter()
            found = self._sampler.sample(
                [prompt.prompt for prompt in asked],
                seed=derived_seed(self._seed, f"rollouts/update-{self._update}/batch-{batch}"),
            )
            _require_tokens(asked, found)  # its answer is awaited, so the time is that of the GPU
            self._seconds += time.perf_counter() - started
            self._sampled.append(found)
        return PromptCompletions(
            tuple(prompt.answered(()) for prompt in asked),
            found,
            (self._origin,) * len(asked),
            (self._update,) * len(asked),
        )

    def _refresh(self) -> None:
        if not self._refresh_seconds:
            started = time.perf_counter()
            self._sampler.refresh()
            self._refresh_seconds.append(time.perf_counter() - started)

    def end_update(self) -> dict[str, TokenSum]:
        """Lengths in tokens, fractions of sequences, speed; `rollouts` is a process's mean."""
        zero = torch.zeros((), dtype=torch.long)
        sequences = sum(map(len, self._sampled))
        tokens = sum((found.lengths.sum() for found in self._sampled), zero)
        finished = sum((found.finished.sum() for found in self._sampled), zero)
        return {
            "rollouts": metric_sum(sequences, 1),
            "completion_length": metric_sum(tokens, sequences),
            "eos_rate": metric_sum(finished, sequences),
            "cut_fraction": metric_sum(sequences - finished, sequences),
            "generation_tokens_per_second": metric_sum(tokens, self._seconds),
            "refresh_seconds": metric_sum(sum(self._refresh_seconds), len(self._refresh_seconds)),
        }


def _require_tokens(prompts: Sequence[EncodedExample], found: Completions) -> None:
    if bool((found.lengths > 0).all()):
        return
    prompt = prompts[int((found.lengths == 0).nonzero()[0])]
    raise DataError(
        f"Every prompt must be answered with a token at least, but that of {prompt.id!r} is not: "
        "CTranslate2 skips sources of special tokens alone; take it out of the data, or use "
        "engine: transformers for the rollouts."
    )

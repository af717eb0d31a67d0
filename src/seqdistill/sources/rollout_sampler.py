"""On-policy sequences: sampled from the student's weights of the very update that learns from them.

Never anything older; `replay` keeps old ones and says so. Does not know how a sampler samples.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

from seqdistill.core.errors import DataError
from seqdistill.core.generators import derived_seed
from seqdistill.core.origins import Origin
from seqdistill.core.token_sum import TokenSum
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.sampling import Sample, Sampler
from seqdistill.sources.completions import Completion, metric_sum


@dataclasses.dataclass
class _Counts:
    """What the rollouts since `begin_update` were."""

    sequences: int = 0
    tokens: int = 0
    finished: int = 0
    seconds: float = 0.0
    refreshes: int = 0
    refresh_seconds: float = 0.0


class RolloutSampler:
    """A `CompletionSource` of fresh rollouts, `samples_per_prompt` of each prompt.

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
        self._written_by: Origin = origin
        self._update, self._calls = 0, 0
        self._counts = _Counts()

    @property
    def sequences_per_prompt(self) -> int:
        """As many as were asked for."""
        return self._samples_per_prompt

    def begin_update(self, update: int, updates: int) -> None:
        """The weights have moved: earlier rollouts are no longer on-policy."""
        self._update, self._calls = update, 0
        self._counts = _Counts()

    def write(self, prompts: Sequence[EncodedExample]) -> list[Completion]:
        """Rollouts, those of one prompt side by side.

        Raises DataError for a prompt that the sampler answers with nothing at all.
        """
        batch = self._calls * self._world_size + self._rank
        self._calls += 1
        if not prompts:
            return []
        self._refresh()
        asked = [prompt for prompt in prompts for _ in range(self._samples_per_prompt)]
        started = time.perf_counter()
        samples = self._sampler.sample(
            [prompt.prompt_ids for prompt in asked],
            seed=derived_seed(self._seed, f"rollouts/update-{self._update}/batch-{batch}"),
        )
        self._counts.seconds += time.perf_counter() - started
        return [self._written(*pair) for pair in zip(asked, samples, strict=True)]

    def _refresh(self) -> None:
        if self._counts.refreshes:
            return
        started = time.perf_counter()
        self._sampler.refresh()
        self._counts.refreshes = 1
        self._counts.refresh_seconds = time.perf_counter() - started

    def _written(self, prompt: EncodedExample, sample: Sample) -> Completion:
        if not sample.token_ids:
            raise DataError(
                f"Every prompt must be answered with a token at least, but that of {prompt.id!r} "
                "is not: CTranslate2 skips sources of special tokens alone; take it out of the "
                "data, or use engine: transformers for the rollouts."
            )
        self._counts.sequences += 1
        self._counts.tokens += len(sample.token_ids)
        self._counts.finished += sample.finished
        return Completion(
            prompt.answered(sample.token_ids),
            self._written_by,
            sampled_log_probs=sample.log_probs,
            sampled_at_update=self._update,
            finished=sample.finished,
        )

    def end_update(self) -> dict[str, TokenSum]:
        """Lengths in tokens, shares of sequences, speed; `rollouts` is a process's mean."""
        counts = self._counts
        return {
            "rollouts": metric_sum(counts.sequences, 1),
            "completion_length": metric_sum(counts.tokens, counts.sequences),
            "eos_rate": metric_sum(counts.finished, counts.sequences),
            "cut_fraction": metric_sum(counts.sequences - counts.finished, counts.sequences),
            "generation_tokens_per_second": metric_sum(counts.tokens, counts.seconds),
            "refresh_seconds": metric_sum(counts.refresh_seconds, counts.refreshes),
        }

    def dev_scored(self, scores: Mapping[str, float]) -> None:
        """Nothing here depends on dev scores."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep: the number of the update is all there is."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take up."""

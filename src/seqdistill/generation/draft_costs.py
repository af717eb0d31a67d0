"""What drafts cost and bring on this machine, and the draft length that follows from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from seqdistill.core.batches import padded_batches
from seqdistill.core.source import Source
from seqdistill.generation.sampling import TransformersSampler
from seqdistill.generation.speculative import DraftCounts, SpeculativeGenerator
from seqdistill.models.loading import LoadedModel
from seqdistill.recipe.sequences_schema import Decoding

_MOST = 16
"""The longest draft that is chosen."""
_TRIED = (2, 6)
"""Draft lengths that are timed: two, since a pass costs about a fixed part and one a token."""
_TIMED_TOKENS = 48
"""Longest outputs of what is decoded for its time alone."""


@dataclasses.dataclass(frozen=True)
class DraftCosts:
    """What drafts of two models cost and bring."""

    draft_step_s: float
    """A token of the draft, for a batch."""
    pass_s: float
    """A forward pass of the teacher, but for what grows with its width."""
    column_s: float
    """For each token of a row that the pass reads."""
    acceptance: float

    def pass_of(self, draft_tokens: int) -> float:
        """Seconds of the pass that reads a draft and the token before it."""
        return self.pass_s + (draft_tokens + 1) * self.column_s

    def seconds_per_token(self, draft_tokens: int) -> float:
        """Of the outputs. Takes every drafted token to be accepted with one probability a,
        whatever the others are, so that a pass brings 1 + a + a ** 2 + ... + a ** draft_tokens.

        Source: Leviathan et al. 2023, theorem 3.8.
        """
        brought = sum(self.acceptance**place for place in range(draft_tokens + 1))
        return (draft_tokens * self.draft_step_s + self.pass_of(draft_tokens)) / brought

    @property
    def draft_tokens(self) -> int:
        """The draft length with the fewest seconds a token."""
        return min(range(1, _MOST + 1), key=self.seconds_per_token)


def measured_costs(
    teacher: LoadedModel, draft: LoadedModel, sources: Sequence[Source], decoding: Decoding
) -> DraftCosts:
    """The costs as this machine is now, from short outputs for the first batch of the sources."""
    sources, decoding = _timed_batch(sources, decoding)
    found = []
    for draft_tokens in _TRIED[:1] + _TRIED:  # the first run warms up
        generator = SpeculativeGenerator(teacher, draft, draft_tokens=draft_tokens)
        generator.generate(sources, decoding)
        found.append(generator.counts)
    short, long = (counts.teacher_seconds / max(1, counts.teacher_passes) for counts in found[1:])
    column = max(0.0, (long - short) / (_TRIED[1] - _TRIED[0]))
    steps = sum(counts.draft_steps for counts in found[1:])
    return DraftCosts(
        draft_step_s=sum(counts.draft_seconds for counts in found[1:]) / max(1, steps),
        pass_s=max(0.0, short - (_TRIED[0] + 1) * column),
        column_s=column,
        acceptance=sum(c.accepted for c in found) / max(1, sum(c.tested for c in found)),
    )


def seconds_with_and_without(
    generator: SpeculativeGenerator, sources: Sequence[Source], decoding: Decoding
) -> tuple[float, float]:
    """What the first batch of the sources takes with the draft, and by the teacher alone.

    The same steps with a key-value cache write both; outputs are cut short. In turn, and the
    faster of two each, so that a busy machine slows both alike.
    """
    sources, decoding = _timed_batch(sources, decoding)
    teacher, both = generator.teacher, dataclasses.replace(generator, counts=DraftCounts())
    alone = TransformersSampler(
        teacher.model, teacher.tokenizer, kind=teacher.kind, decoding=decoding
    )
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        started = time.perf_counter()
        both.generate(sources, decoding)
        seconds[0].append(time.perf_counter() - started)
        started = time.perf_counter()
        alone.sample(sources, seed=0).rows()
        seconds[1].append(time.perf_counter() - started)
    return min(seconds[0]), min(seconds[1])


def _timed_batch(sources: Sequence[Source], decoding: Decoding) -> tuple[list[Source], Decoding]:
    lengths = [len(source) for source in sources]
    batch = padded_batches(lengths, batch_tokens=decoding.batch_tokens)[0]
    short = min(decoding.max_new_tokens, _TIMED_TOKENS)
    return [sources[i] for i in batch], decoding.model_copy(update={"max_new_tokens": short})

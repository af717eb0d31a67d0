"""How sequences are asked for, and what comes back: the common types of generation.

Knows no inference engine. Two engines keep this contract, `ctranslate2_engine` and
`transformers_engine`; tests hold them against each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from seqdistill.core.source import Source
from seqdistill.recipe.sequences_schema import Decoding


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One output of a model for one source."""

    token_ids: tuple[int, ...]
    """What the model wrote: no start token, no prefix or prompt; its end token included when
    finished."""
    log_prob: float
    """Sum over `token_ids` of log p(token | source, earlier tokens) in nats, under the model's own
    distribution: not divided by length, not changed by temperature, top_k or top_p."""
    finished: bool
    """True when the last token is one of the end tokens; False when `max_new_tokens` cut it off."""

    @property
    def content_ids(self) -> tuple[int, ...]:
        """The tokens less the end: what is text, whichever of the model's ends was written."""
        return self.token_ids[:-1] if self.finished else self.token_ids


@runtime_checkable
class SequenceGenerator(Protocol):
    """An engine that turns sources into hypotheses."""

    def generate(
        self,
        sources: Sequence[Source],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The hypotheses of every source, in the order of `sources`, best first.

        Sources carry every token the model shall read, the end token of an encoder's source
        included; for decoder-only models a source is the prompt. Best means the highest
        log_prob / length ** length_penalty in mode `beam`, the highest log_prob in mode `sample`.
        `on_progress` receives how many sources became ready since it was last called.
        """
        ...

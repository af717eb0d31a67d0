"""How sequences are asked for, and what comes back: the common types of generation.

Knows no inference engine. Two engines keep this contract, `ctranslate2_engine` and
`transformers_engine`; tests hold them against each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from seqdistill.core.source import Source


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How to decode; `recipe` checks the ranges. The sampler's temperature is not the loss's."""

    mode: Literal["beam", "sample"] = "beam"
    """`beam`: beam search. `sample`: ancestral sampling from the model's own distribution."""
    beam_size: int = 5
    """Hypotheses kept per step; 1 is greedy. Not read in mode `sample`."""
    n_best: int = 1
    """Hypotheses returned per source: the best of the beam, or so many independent samples."""
    length_penalty: float = 1.0
    """Beam scores are divided by length ** length_penalty, a decoder's prefix counted in it; 0
    compares plain log-probabilities."""
    sampling_temperature: float = 1.0
    """Divides the sampler's logits."""
    top_k: int = 0
    """Sample among the k likeliest symbols; 0 means all."""
    top_p: float = 1.0
    """Sample from the smallest set of symbols with this mass; 1 means all."""
    max_new_tokens: int = 128
    """Longest output, end-of-sequence token included."""
    batch_tokens: int = 1024
    """How many source tokens (padding included) are decoded together."""


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

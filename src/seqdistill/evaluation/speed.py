"""Words and sentences per second of systems, in turn so that a busy machine slows all alike.

Sentences per second is what a user waits for, and what speeds are compared by: words per second
grows for a system that does not stop.

Every system decodes the same sentences with the same engine; rounds alternate between systems and
the median round counts. Times decoding alone: no loading, no tokenization. Systems so slow that
a round would take minutes decode fewer sentences, all the same ones.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.core.source import Source
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.scripts import pieces

_WARM_UP = 8
"""Sentences that every system decodes first, untimed but for how many more it can be asked."""
_FEWEST = 16
"""Sentences of a round, however slow the systems are; all, where there are fewer."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One system as it decodes: an engine, its sources, its tokenizer."""

    generator: SequenceGenerator
    sources: Sequence[Source]
    tokenizer: PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Rate:
    """Something per second of wall time over several rounds; the median is what counts."""

    median: float
    slowest: float
    fastest: float


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a system decodes. A word stands between white space, or is a character where there
    is none."""

    words: Rate
    sentences: Rate
    num_sentences: int
    """How many sentences each round decoded."""


def speeds_of(
    decoders: Mapping[str, Decoder],
    decoding: Decoding,
    *,
    rounds: int = 3,
    round_seconds: float = 60.0,
) -> dict[str, Speed]:
    """The speed of every system over interleaved rounds.

    A round decodes all sources, or so many of the first that, at the pace of the warm-up, all
    systems together are done with them in about `round_seconds`; never fewer than 16.
    """
    warm_up_seconds = 0.0
    for decoder in decoders.values():
        started = time.perf_counter()
        decoder.generator.generate(decoder.sources[:_WARM_UP], decoding)
        warm_up_seconds += time.perf_counter() - started
    most = max(_FEWEST, int(_WARM_UP * round_seconds / max(warm_up_seconds, 1e-3)))
    texts_of = {name: TextDecoder(decoder.tokenizer) for name, decoder in decoders.items()}
    words: dict[str, list[float]] = {name: [] for name in decoders}
    sentences: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            started = time.perf_counter()
            found = decoder.generator.generate(decoder.sources[:most], decoding)
            seconds = time.perf_counter() - started
            texts = texts_of[name].texts(h[0].content_ids for h in found if h)
            words[name].append(sum(len(pieces(text)) for text in texts) / seconds)
            sentences[name].append(len(decoder.sources[:most]) / seconds)
    return {
        name: Speed(_rate(words[name]), _rate(sentences[name]), len(decoders[name].sources[:most]))
        for name in decoders
    }


def _rate(values: Sequence[float]) -> Rate:
    return Rate(statistics.median(values), min(values), max(values))

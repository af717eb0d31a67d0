"""Words per second of several systems, measured in turn so that a busy machine slows all alike.

Every system decodes the same sentences with the same engine; rounds alternate between systems and
the median round counts. Times decoding alone: no loading, no tokenization.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.generation.decoding import Decoding, SequenceGenerator


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One system as it decodes: an engine, its sources as token ids, its tokenizer."""

    generator: SequenceGenerator
    sources: Sequence[Sequence[int]]
    tokenizer: PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Rate:
    """Output words per second of wall time over several rounds; the median is what counts."""

    median: float
    slowest: float
    fastest: float


def words_per_second(
    decoders: Mapping[str, Decoder], decoding: Decoding, *, rounds: int = 3
) -> dict[str, Rate]:
    """The rate of every system over interleaved rounds."""
    for decoder in decoders.values():
        decoder.generator.generate(decoder.sources[:8], decoding)  # warm-up
    rates: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(rounds):
        for name, decoder in decoders.items():
            started = time.perf_counter()
            found = decoder.generator.generate(decoder.sources, decoding)
            seconds = time.perf_counter() - started
            texts = decoder.tokenizer.batch_decode(
                [hypotheses[0].token_ids for hypotheses in found if hypotheses],
                skip_special_tokens=True,
            )
            rates[name].append(sum(len(text.split()) for text in texts) / seconds)
    return {
        name: Rate(statistics.median(values), min(values), max(values))
        for name, values in rates.items()
    }

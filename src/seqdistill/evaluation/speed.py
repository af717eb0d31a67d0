"""Words and sentences per second of systems, in turn so that a busy machine slows all alike.

Sentences per second is what a user waits for, and what speeds are compared by: words per second
grows for a system that does not stop.

Every system decodes the same sentences with the same engine; rounds alternate between systems, of
which one at a time is in memory, and the median round counts. Times decoding alone: no loading, no
tokenization.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from seqdistill.core.source import Source
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.scripts import pieces
from seqdistill.records.results import Value

_WARM_UP = 8
"""Sentences that every system decodes untimed after it is loaded."""
_FEWEST = 16
"""Sentences of a round, however slow the systems are; all, where there are fewer."""


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One system as it decodes: an engine, its sources, its tokenizer."""

    generator: SequenceGenerator
    sources: Sequence[Source]
    tokenizer: PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a system decodes: medians over the rounds, between the slowest and the fastest. A
    word stands between white space, or is a character where there is none."""

    words: Value
    sentences: Value
    num_sentences: int
    """How many sentences each round decoded."""


def sentences_of_round(seconds: Sequence[float], *, round_seconds: float = 60.0) -> int:
    """How many sentences make a round of all systems take about `round_seconds`; at least 16.

    `seconds` is what each system takes for a sentence.
    """
    return max(_FEWEST, int(round_seconds / max(sum(seconds), 1e-6)))


def speeds_of(
    systems: Mapping[str, Callable[[], Decoder]],
    decodings: Mapping[str, Decoding],
    num_sentences: Mapping[str, int],
    *,
    rounds: int = 3,
) -> dict[str, dict[str, Speed]]:
    """The speed of every system over interleaved rounds, by each way of decoding and its name.

    A round loads one system after another and decodes the first `num_sentences` of its sources.
    """
    words: dict[tuple[str, str], list[float]] = {}
    sentences: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, str], int] = {}
    for _ in range(rounds):
        for name, load in systems.items():
            decoder = load()
            texts_of = TextDecoder(decoder.tokenizer).texts
            for mode, decoding in decodings.items():
                timed = decoder.sources[: num_sentences[mode]]
                decoder.generator.generate(decoder.sources[:_WARM_UP], decoding)
                started = time.perf_counter()
                found = decoder.generator.generate(timed, decoding)
                seconds = time.perf_counter() - started
                texts = texts_of(h[0].content_ids for h in found if h)
                of_both = mode, name
                num_words = sum(len(pieces(text)) for text in texts)
                words.setdefault(of_both, []).append(num_words / seconds)
                sentences.setdefault(of_both, []).append(len(timed) / seconds)
                counts[of_both] = len(timed)
            del decoder  # before the next is loaded
    return {
        mode: {
            name: Speed(_rate(words[mode, name]), _rate(sentences[mode, name]), counts[mode, name])
            for name in systems
        }
        for mode in decodings
    }


def _rate(values: Sequence[float]) -> Value:
    return Value(value=statistics.median(values), low=min(values), high=max(values))

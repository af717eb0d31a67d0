"""Words and sentences per second of systems, in turn so that a busy machine slows all alike.

Sentences per second is what a user waits for, and what speeds are compared by: words per second
grows for a system that does not stop. Times decoding alone: no loading, no tokenization.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from transformers import PreTrainedTokenizerBase

from seqdistill.core.source import Source
from seqdistill.data.detokenizing import TextDecoder
from seqdistill.evaluation.settings import EvaluationSettings
from seqdistill.evaluation.systems import Measured, SystemResult, SystemSource
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.metrics.scripts import pieces
from seqdistill.recipe.sequences_schema import Decoding
from seqdistill.records.results import START, Value

_SENTENCES = 64
"""Enough for a stable median; slow systems decode fewer."""
ROUNDS = 3
"""In which every system decodes."""
WARM_UP = 8
"""Sentences that every system decodes untimed at its turn."""
_FEWEST = 16
"""Sentences of a round, however slow the systems are; all, where there are fewer."""
KEPT_PARAMETERS = 500_000_000
"""Systems of no more parameters together, 2 GB in fp32, stay in memory from round to round; others
are loaded, converted and compared with their models anew at every turn, one at a time."""

Decoder = tuple[SequenceGenerator, Sequence[Source], PreTrainedTokenizerBase]
"""One system as it decodes: an engine, its sources, its tokenizer."""


class Speed(TypedDict):
    """How fast a system decodes: medians over the rounds, between the slowest and the fastest. A
    word stands between white space, or is a character where there is none."""

    words_per_second: Value
    sentences_per_second: Value
    timed_sentences: int
    """How many sentences each round decoded."""


def measure_speed(measured: Sequence[Measured], settings: EvaluationSettings) -> list[SystemResult]:
    """The results with words and sentences per second, greedy and by beam, measured in turns.

    The start is left out: it may not stop by itself yet, and is not to be used.
    """
    tested = [(source, result) for source, result in measured if source.name != START]
    num_sentences = {
        mode: sentences_of_round(
            [getattr(r, mode).seconds / max(1, len(r.greedy.texts)) for _, r in tested]
        )
        for mode in ("greedy", "beam")
    }
    loads: dict[str, Callable[[], Decoder]] = {
        result.row.name: functools.partial(_decoder, source) for source, result in tested
    }
    if sum(result.row.parameters or 0 for _, result in tested) <= KEPT_PARAMETERS:
        loads = {name: functools.cache(load) for name, load in loads.items()}
    speeds = speeds_of(loads, {"greedy": settings.greedy, "beam": settings.beam}, num_sentences)
    results = []
    for _, result in measured:
        row = result.row
        if (found := speeds.get(row.name)) is not None:
            greedy = row.greedy.model_copy(update={**found["greedy"]})
            result = result.with_row(
                greedy=greedy, beam=row.beam.model_copy(update={**found["beam"]})
            )
        results.append(result)
    return results


def _decoder(source: SystemSource) -> Decoder:
    system = source.load()
    sources = [example.prompt for example in system.examples[:_SENTENCES]]
    return system.generator, sources, system.tokenizer


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
    rounds: int = ROUNDS,
) -> dict[str, dict[str, Speed]]:
    """The speed of every system over interleaved rounds, by its name and each way of decoding.

    At its turn a system is loaded, and decodes the first `num_sentences` of its sources.
    """
    rates: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    for _ in range(rounds):
        for name, load in systems.items():
            generator, sources, tokenizer = load()
            texts_of = TextDecoder(tokenizer).texts
            for mode, decoding in decodings.items():
                timed = sources[: num_sentences[mode]]
                generator.generate(sources[:WARM_UP], decoding)
                started = time.perf_counter()
                found = generator.generate(timed, decoding)
                seconds = time.perf_counter() - started
                words = sum(
                    len(pieces(text)) for text in texts_of(h[0].content_ids for h in found if h)
                )
                rate = (words / seconds, len(timed) / seconds, len(timed))
                rates.setdefault((name, mode), []).append(rate)
            del generator  # before the next is loaded
    speeds: dict[str, dict[str, Speed]] = {name: {} for name in systems}
    for (name, mode), found_rates in rates.items():
        words_rates, sentence_rates, (count, *_) = zip(*found_rates, strict=True)
        speeds[name][mode] = {
            "words_per_second": _rate(words_rates),
            "sentences_per_second": _rate(sentence_rates),
            "timed_sentences": count,
        }
    return speeds


def _rate(values: Sequence[float]) -> Value:
    return Value(value=statistics.median(values), low=min(values), high=max(values))

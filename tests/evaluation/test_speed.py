"""Words and sentences per second: what is counted, and that systems take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.evaluation.fixed import says
from tests.tiny import character_tokenizer

from seqdistill.evaluation import speed
from seqdistill.evaluation.speed import Decoder, speeds_of
from seqdistill.generation.decoding import Decoding, Hypothesis

TOKENIZER = character_tokenizer()
SOURCES = [(5, 2), (6, 2)]


class Watched:
    """A generator that notes when it works and lets a clock advance."""

    def __init__(self, name: str, text: str, log: list[str], seconds: Iterator[float]) -> None:
        self._inner = says(TOKENIZER, dict.fromkeys(SOURCES, text))
        self._name = name
        self._log = log
        self._seconds = seconds

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        self._log.append(self._name)
        CLOCK.now += next(self._seconds)
        return self._inner.generate(sources, decoding)


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


def test_rates_are_words_over_the_median_of_interleaved_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "time", CLOCK)
    log: list[str] = []
    # First the warm-up, which must not count, then three rounds of which one is disturbed.
    decoders = {
        "teacher": Decoder(
            Watched("teacher", "one two three", log, iter([99.0, 2.0, 50.0, 3.0])),
            SOURCES,
            TOKENIZER,
        ),
        "student": Decoder(
            Watched("student", "one two", log, iter([99.0, 0.5, 0.25, 20.0])), SOURCES, TOKENIZER
        ),
    }
    speeds = speeds_of(decoders, Decoding(beam_size=1), rounds=3)
    rates = {name: found.words for name, found in speeds.items()}
    # 2 x 3 words in 2, 50 and 3 seconds; 2 x 2 words in 0.5, 0.25 and 20 seconds.
    assert {name: rate.median for name, rate in rates.items()} == pytest.approx(
        {"teacher": 6 / 3.0, "student": 4 / 0.5}
    )
    assert (rates["teacher"].slowest, rates["teacher"].fastest) == pytest.approx((6 / 50, 6 / 2))
    assert (rates["student"].slowest, rates["student"].fastest) == pytest.approx((4 / 20, 4 / 0.25))
    assert log == ["teacher", "student"] * 4
    # 2 sentences each in the same times: fewer words make no system slower.
    assert {name: found.sentences.median for name, found in speeds.items()} == pytest.approx(
        {"teacher": 2 / 3.0, "student": 2 / 0.5}
    )


@pytest.mark.parametrize(
    ("warm_up", "sentences"),
    # 8 sentences took both systems this long together; 60 seconds buy the rest.
    [(0.0, 40), (2 * 6.0, 40), (2 * 10.0, 24), (2 * 15.0, 16), (2 * 500.0, 16)],
)
def test_systems_that_are_slow_decode_fewer_of_the_sentences(
    monkeypatch: pytest.MonkeyPatch, warm_up: float, sentences: int
) -> None:
    monkeypatch.setattr(speed, "time", CLOCK)
    decoders = {
        name: Decoder(
            Watched(name, "one two", [], iter([warm_up / 2, 1.0, 1.0])), SOURCES * 20, TOKENIZER
        )
        for name in ("teacher", "student")
    }
    speeds = speeds_of(decoders, Decoding(beam_size=1), rounds=2, round_seconds=60.0)
    for found in speeds.values():
        assert found.num_sentences == sentences
        assert found.words.median == pytest.approx(2 * sentences)

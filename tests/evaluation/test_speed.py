"""Words and sentences per second: what is counted, and that systems take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.evaluation.test_systems import says
from tests.tiny import character_tokenizer

from seqdistill.evaluation import speed
from seqdistill.evaluation.speed import Decoder, sentences_of_round, speeds_of
from seqdistill.generation.decoding import Hypothesis
from seqdistill.recipe.sequences_schema import Decoding

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


def watched(name: str, text: str, log: list[str], seconds: list[float]) -> Callable[[], Decoder]:
    """Loads the system again and again; its clock goes on."""
    generator = Watched(name, text, log, iter(seconds))

    def load() -> Decoder:
        log.append(f"load {name}")
        return generator, SOURCES, TOKENIZER

    return load


def test_rates_are_words_over_the_median_of_interleaved_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(speed, "time", CLOCK)
    log: list[str] = []
    # Before each round a warm-up, which must not count; one of three rounds is disturbed.
    systems = {
        "teacher": watched("teacher", "one two three", log, [99.0, 2.0, 99.0, 50.0, 99.0, 3.0]),
        "student": watched("student", "one two", log, [99.0, 0.5, 99.0, 0.25, 99.0, 20.0]),
    }
    speeds = speeds_of(systems, {"greedy": Decoding(beam_size=1)}, {"greedy": 40})
    # 2 x 3 words in 2, 50 and 3 seconds; 2 x 2 words in 0.5, 0.25 and 20 seconds.
    teacher, student = (speeds[n]["greedy"]["words_per_second"] for n in ("teacher", "student"))
    assert [teacher.value, teacher.low, teacher.high] == pytest.approx([6 / 3.0, 6 / 50, 6 / 2])
    assert [student.value, student.low, student.high] == pytest.approx([4 / 0.5, 4 / 20, 4 / 0.25])
    turn = [of for name in ("teacher", "student") for of in (f"load {name}", name, name)]
    assert log == turn * 3
    # 2 sentences each in the same times: fewer words make no system slower.
    for name, seconds in (("teacher", 3.0), ("student", 0.5)):
        found = speeds[name]["greedy"]
        assert found["sentences_per_second"].value == pytest.approx(2 / seconds)
        assert found["timed_sentences"] == 2


@pytest.mark.parametrize(
    ("seconds", "sentences"), [((0.0, 0.0), 60_000_000), ((0.5, 1.0), 40), ((9.0, 1.0), 16)]
)
def test_systems_that_are_slow_decode_fewer_of_the_sentences(
    seconds: tuple[float, float], sentences: int
) -> None:
    assert sentences_of_round(seconds) == sentences

"""A generator that says what it is told, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from seqdistill.generation.decoding import Decoding, Hypothesis

Source = tuple[int, ...]


class FixedGenerator:
    """Answers each source with the hypotheses listed for it."""

    def __init__(self, answers: Mapping[Source, list[Hypothesis]]) -> None:
        self._answers = answers
        self.asked: list[tuple[list[Source], Decoding]] = []

    def generate(
        self,
        sources: Sequence[Any],
        decoding: Decoding,
        *,
        seed: int = 0,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        keys = [tuple(source) for source in sources]
        self.asked.append((keys, decoding))
        return [self._answers[key] for key in keys]


def says(
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[Source, str],
    *,
    log_prob: float = -1.0,
    finished: bool = True,
) -> FixedGenerator:
    """A generator whose one hypothesis for each source is that text."""
    return FixedGenerator(
        {
            source: [Hypothesis(tuple(tokenizer(text).input_ids), log_prob, finished)]
            for source, text in texts.items()
        }
    )

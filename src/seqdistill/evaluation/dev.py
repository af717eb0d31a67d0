"""Scores a student on dev by generation while it trains. Chooses nothing: the loop does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.corpus_metrics import CORPUS_METRICS

GeneratorFactory = Callable[[PreTrainedModel], SequenceGenerator]
"""A generator with the model's present weights."""


def best_texts(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
) -> list[str]:
    """The text of each example's best hypothesis, marks removed, in order."""
    found = generator.generate([example.prompt_ids for example in examples], decoding)
    best = [hypotheses[0].token_ids if hypotheses else () for hypotheses in found]
    return [text.strip() for text in TextDecoder(tokenizer).texts(best)]


class DevScorer:
    """The chosen metrics of the student's greedy outputs on dev, and its loss on the references.

    `loss_nats` gives the mean nats a token of the live student; it is asked at every call.
    """

    def __init__(
        self,
        *,
        examples: Sequence[EncodedExample],
        references: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        generator: GeneratorFactory,
        metrics: Sequence[str],
        loss_nats: Callable[[], float],
        max_new_tokens: int,
    ) -> None:
        self._examples = examples
        self._references = references
        self._tokenizer = tokenizer
        self._generator = generator
        self._metrics = metrics
        self._loss_nats = loss_nats
        self._decoding = Decoding(beam_size=1, max_new_tokens=max_new_tokens)

    def __call__(self, model: PreTrainedModel) -> Mapping[str, float]:
        """Each metric's value under its name in CORPUS_METRICS, such as `bleu`, and `loss_nats`."""
        texts = best_texts(self._generator(model), self._examples, self._tokenizer, self._decoding)
        scores = {
            name: CORPUS_METRICS[name].statistics(texts, self._references).score().value
            for name in self._metrics
        }
        return {**scores, "loss_nats": self._loss_nats()}

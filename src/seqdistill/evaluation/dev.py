"""Scores a student on dev by generation while it trains. Chooses nothing: the loop does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.data.detokenizing import TextDecoder
from seqdistill.data.encoding import EncodedExample
from seqdistill.generation.decoding import Decoding, SequenceGenerator
from seqdistill.metrics.corpus_metrics import LOSS, corpus_metrics
from seqdistill.metrics.scripts import SPACED, Units

_LOG = logging.getLogger(__name__)
_ZEROS = 2
"""So many first scores of zero are no chance: what is chosen by them is not chosen at all."""

GeneratorFactory = Callable[[PreTrainedModel], SequenceGenerator]
"""A generator with the model's present weights."""


def best_texts(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    tokenizer: PreTrainedTokenizerBase,
    decoding: Decoding,
) -> list[str]:
    """The text of each example's best hypothesis, marks removed, in order."""
    found = generator.generate([example.prompt for example in examples], decoding)
    best = [hypotheses[0].content_ids if hypotheses else () for hypotheses in found]
    return [text.strip() for text in TextDecoder(tokenizer).texts(best)]


class DevScorer:
    """The chosen metrics of the student's greedy outputs on dev, and its loss on the references.

    `loss_nats` gives the mean nats a token of the live student; it is asked at every call.
    `chooses` names the score that chooses checkpoints: when its first values are all zero a warning
    says so once, and what would tell students apart.
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
        chooses: str = LOSS,
        units: Units = SPACED,
    ) -> None:
        self._examples = examples
        self._references = references
        self._tokenizer = tokenizer
        self._generator = generator
        self._metrics = {name: corpus_metrics(units)[name] for name in metrics}
        self._chooses = chooses
        self._zeros: int | None = 0
        self._loss_nats = loss_nats
        self._decoding = Decoding(beam_size=1, max_new_tokens=max_new_tokens)

    def __call__(self, model: PreTrainedModel) -> Mapping[str, float]:
        """Each metric's value under its name, such as `bleu`, and `loss_nats`."""
        texts = best_texts(self._generator(model), self._examples, self._tokenizer, self._decoding)
        scores = {
            name: metric.statistics(texts, self._references).score().value
            for name, metric in self._metrics.items()
        }
        scores[LOSS] = self._loss_nats()
        self._warn_of_zeros(scores)
        return scores

    def _warn_of_zeros(self, scores: Mapping[str, float]) -> None:
        """Says once when the score that chooses has been zero from the start."""
        if self._zeros is None:
            return
        metric = self._metrics.get(self._chooses)
        if metric is None or not metric.higher_is_better or scores[self._chooses] != 0.0:
            self._zeros = None  # it tells students apart
            return
        self._zeros += 1
        if self._zeros < _ZEROS:
            return
        self._zeros = None
        telling = [name for name in self._metrics if scores[name] > 0.0]
        _LOG.warning(
            "training.eval_metric must tell students apart, but %s was 0 at the first %d scores on "
            "dev, so it chooses no checkpoint; set training.eval_metric=%s",
            self._chooses,
            _ZEROS,
            next((name for name in telling if self._metrics[name].higher_is_better), "loss"),
        )

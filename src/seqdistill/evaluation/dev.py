"""Scores a student on dev by generation while it trains. Chooses nothing: the loop does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.token_sum import TokenSum
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


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The processes that share the work, and how each gets every one's result, in their order."""

    rank: int = 0
    count: int = 1
    gather: Callable[[Any], list[Any]] = lambda own: [own]


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

    `loss` gives the nats of the live student on the references of some examples, over their tokens.
    Each of the processes decodes and scores its share of dev; the scores are those of one process.
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
        loss: Callable[[Sequence[EncodedExample]], TokenSum],
        max_new_tokens: int,
        chooses: str = LOSS,
        units: Units = SPACED,
        ranks: Ranks = Ranks(),
    ) -> None:
        self._examples = examples
        self._references = references
        self._tokenizer = tokenizer
        self._generator = generator
        self._metrics = {name: corpus_metrics(units)[name] for name in metrics}
        self._chooses = chooses
        self._zeros: int | None = 0
        self._loss = loss
        self._ranks = ranks
        self._decoding = Decoding(beam_size=1, max_new_tokens=max_new_tokens)

    def __call__(self, model: PreTrainedModel) -> Mapping[str, float]:
        """Each metric's value under its name, such as `bleu`, and `loss_nats`."""
        texts, loss = self._shared(model)
        scores = {
            name: metric.statistics(texts, self._references).score().value
            for name, metric in self._metrics.items()
        }
        scores[LOSS] = loss.mean
        self._warn_of_zeros(scores)
        return scores

    def _shared(self, model: PreTrainedModel) -> tuple[list[str], TokenSum]:
        """The texts for all of dev in order, and its loss; of n processes each does every n-th."""
        rank, count = self._ranks.rank, self._ranks.count
        own = self._examples[rank::count]
        texts, loss = [""] * len(self._examples), TokenSum.zero()
        found: list[str] = []
        if own:
            found = best_texts(self._generator(model), own, self._tokenizer, self._decoding)
            loss = self._loss(own)
        everyones = self._ranks.gather((found, float(loss.total), float(loss.count)))
        for position, (share, _, _) in enumerate(everyones):
            texts[position::count] = share
        totals = torch.tensor([part[1:] for part in everyones], dtype=torch.float64).sum(dim=0)
        return texts, TokenSum(totals[0], totals[1])

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

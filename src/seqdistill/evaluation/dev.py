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
from seqdistill.generation.decoding import SequenceGenerator
from seqdistill.metrics.corpus_metrics import LOSS, CorpusMetric, corpus_metrics
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.recipe.sequences_schema import Decoding

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
    on_progress: Callable[[int], None] | None = None,
    *,
    seed: int = 0,
) -> list[str]:
    """The text of each example's best hypothesis, marks removed, in order."""
    prompts = [example.prompt for example in examples]
    found = generator.generate(prompts, decoding, seed=seed, on_progress=on_progress)
    best = [hypotheses[0].content_ids if hypotheses else () for hypotheses in found]
    return [text.strip() for text in TextDecoder(tokenizer).texts(best)]


@dataclasses.dataclass
class DevScorer:
    """The chosen metrics of the student's greedy outputs on dev, and its loss on the references.

    Each of the processes decodes and scores its share of dev; the scores are those of one process.
    """

    examples: Sequence[EncodedExample]
    references: Sequence[str]
    tokenizer: PreTrainedTokenizerBase
    generator: GeneratorFactory
    metrics: Sequence[str]
    loss: Callable[[Sequence[EncodedExample]], TokenSum]
    """The nats of the live student on the references of some examples, over their tokens."""
    max_new_tokens: int
    chooses: str = LOSS
    """The score that chooses checkpoints: when its first values are all zero a warning says so
    once, and what would tell students apart."""
    units: Units = SPACED
    ranks: Ranks = Ranks()
    _num_zeros: int | None = dataclasses.field(default=0, init=False)

    def __call__(self, model: PreTrainedModel) -> Mapping[str, float]:
        """Each metric's value under its name, such as `bleu`, and `loss_nats`."""
        texts, loss = self._shared(model)
        scores = {
            name: metric.statistics(texts, self.references).score().value
            for name, metric in self._known.items()
        }
        scores[LOSS] = loss.mean
        self._warn_of_zeros(scores)
        return scores

    @property
    def _known(self) -> dict[str, CorpusMetric]:
        return {name: corpus_metrics(self.units)[name] for name in self.metrics}

    def _shared(self, model: PreTrainedModel) -> tuple[list[str], TokenSum]:
        """The texts for all of dev in order, and its loss; of n processes each does every n-th."""
        rank, count = self.ranks.rank, self.ranks.count
        own = self.examples[rank::count]
        texts, loss = [""] * len(self.examples), TokenSum.zero()
        found: list[str] = []
        if own:
            greedy = Decoding(beam_size=1, max_new_tokens=self.max_new_tokens)
            found = best_texts(self.generator(model), own, self.tokenizer, greedy)
            loss = self.loss(own)
        everyones = self.ranks.gather((found, float(loss.total), float(loss.count)))
        for position, (share, _, _) in enumerate(everyones):
            texts[position::count] = share
        totals = torch.tensor([part[1:] for part in everyones], dtype=torch.float64).sum(dim=0)
        return texts, TokenSum(totals[0], totals[1])

    def _warn_of_zeros(self, scores: Mapping[str, float]) -> None:
        """Says once when the score that chooses has been zero from the start."""
        if self._num_zeros is None:
            return
        metric = self._known.get(self.chooses)
        if metric is None or not metric.higher_is_better or scores[self.chooses] != 0.0:
            self._num_zeros = None  # it tells students apart
            return
        self._num_zeros += 1
        if self._num_zeros < _ZEROS:
            return
        self._num_zeros = None
        telling = [name for name in self._known if scores[name] > 0.0]
        _LOG.warning(
            "training.eval_metric must tell students apart, but %s was 0 at the first %d scores on "
            "dev, so it chooses no checkpoint; set training.eval_metric=%s",
            self.chooses,
            _ZEROS,
            next((name for name in telling if self._known[name].higher_is_better), "loss"),
        )

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
from seqdistill.generation.decoding import Hypothesis, SequenceGenerator
from seqdistill.metrics.corpus_metrics import LOSS, CorpusMetric, corpus_metrics
from seqdistill.metrics.diversity import outputs_in_tokens
from seqdistill.metrics.scripts import SPACED, Units
from seqdistill.recipe.sequences_schema import Decoding

_LOG = logging.getLogger(__name__)
_NOTHING = Hypothesis((), 0.0, finished=True)
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


def best_of(
    generator: SequenceGenerator,
    examples: Sequence[EncodedExample],
    decoding: Decoding,
    on_progress: Callable[[int], None] | None = None,
    *,
    seed: int = 0,
) -> list[Hypothesis]:
    """Each example's best hypothesis, in order; an empty one where there is none."""
    prompts = [example.prompt for example in examples]
    found = generator.generate(prompts, decoding, seed=seed, on_progress=on_progress)
    return [hypotheses[0] if hypotheses else _NOTHING for hypotheses in found]


def texts_of(best: Sequence[Hypothesis], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Their texts, marks removed."""
    texts = TextDecoder(tokenizer).texts([hypothesis.content_ids for hypothesis in best])
    return [text.strip() for text in texts]


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
        """Each metric's value under its name, such as `bleu`, `loss_nats`, and what
        `outputs_in_tokens` tells of the outputs."""
        best, loss = self._shared(model)
        texts = texts_of(best, self.tokenizer)
        scores = {
            name: metric.statistics(texts, self.references).score().value
            for name, metric in self._known.items()
        }
        scores[LOSS] = loss.mean
        self._warn_of_zeros(scores)
        ids, finished = [one.token_ids for one in best], [one.finished for one in best]
        return scores | outputs_in_tokens(ids, finished)

    @property
    def _known(self) -> dict[str, CorpusMetric]:
        return {name: corpus_metrics(self.units)[name] for name in self.metrics}

    def _shared(self, model: PreTrainedModel) -> tuple[list[Hypothesis], TokenSum]:
        """Outputs for all of dev in order, and its loss; of n processes each does every n-th."""
        rank, count = self.ranks.rank, self.ranks.count
        own = self.examples[rank::count]
        best, loss = [_NOTHING] * len(self.examples), TokenSum.zero()
        found: list[Hypothesis] = []
        if own:
            greedy = Decoding(beam_size=1, max_new_tokens=self.max_new_tokens)
            found = best_of(self.generator(model), own, greedy)
            loss = self.loss(own)
        everyones = self.ranks.gather((found, float(loss.total), float(loss.count)))
        for position, (share, _, _) in enumerate(everyones):
            best[position::count] = share
        totals = torch.tensor([part[1:] for part in everyones], dtype=torch.float64).sum(dim=0)
        return best, TokenSum(totals[0], totals[1])

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

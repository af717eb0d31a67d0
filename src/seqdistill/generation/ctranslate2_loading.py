"""Loads a live model into CTranslate2 and proves that it is the same model, whole or in passing.

Decodes nothing: `ctranslate2_engine` does, with the workers that are made here.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import ctranslate2
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seqdistill.core.errors import EngineError, ModelError
from seqdistill.generation.conversion import ConvertedModel, convert, with_weights_of
from seqdistill.generation.disposable_copies import disposable_copy, tensor_shapes
from seqdistill.generation.model_facts import ModelFacts, facts_of
from seqdistill.generation.scoring import IdPair, token_log_probs
from seqdistill.generation.verification import Agreement, require_agreement, scored_pairs
from seqdistill.models.adapters import Kind

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A converted and verified model with its workers."""

    facts: ModelFacts
    shapes: dict[str, tuple[int, ...]]
    converted: ConvertedModel
    workers: Any
    agreement: Agreement
    """How far the converted model lay from the live one when its weights were last taken."""
    refreshes: int = 0


@dataclasses.dataclass(frozen=True)
class ModelLoader:
    """Makes CTranslate2 models of the live one, with one tokenizer and one arithmetic."""

    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    compute_type: str
    threads: int
    verify_on: Sequence[IdPair]

    def load(self, model: PreTrainedModel) -> LoadedModel:
        """Converts `model` and compares it on every sentence, in float32 first.

        Raises ModelError when it cannot be converted or the two disagree.
        """
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        disposable = disposable_copy(model)
        pairs = scored_pairs(self.verify_on, facts)
        live = token_log_probs(disposable, pairs, facts=facts)
        exact, converted = convert(
            disposable, self.tokenizer, facts, compute_type=self.compute_type
        )
        del disposable
        if exact is not converted:
            checked = self.workers(exact, 1, "float32")
            require_agreement(live, _scores(checked, exact, pairs, facts), compute_type="float32")
        workers = self.workers(converted, self.threads, self.compute_type)
        agreement = require_agreement(
            live, _scores(workers, converted, pairs, facts), compute_type=self.compute_type
        )
        _log.info(
            "CTranslate2 %s model verified on %d tokens: at most %.2g nats from the live one",
            self.compute_type,
            agreement.num_tokens,
            agreement.max_nats,
        )
        return LoadedModel(facts, tensor_shapes(model), converted, workers, agreement)

    def refreshed(self, model: PreTrainedModel, earlier: LoadedModel) -> LoadedModel:
        """`earlier` with the weights that `model` has now, compared on one sentence.

        Raises ModelError for a model of other shapes, and when the two disagree.
        """
        _require_shapes(tensor_shapes(model), earlier.shapes)
        facts = facts_of(model, self.tokenizer, kind=self.kind)
        if facts != earlier.facts:
            return self.load(model)
        disposable = disposable_copy(model)
        pairs = scored_pairs(self.verify_on, facts)
        pair = pairs[earlier.refreshes % len(pairs)]
        live = token_log_probs(disposable, [pair], facts=facts)
        converted = with_weights_of(
            disposable,
            self.tokenizer,
            facts,
            compute_type=self.compute_type,
            converted=earlier.converted,
        )
        workers = self.workers(converted, self.threads, self.compute_type)
        agreement = require_agreement(
            live, _scores(workers, converted, [pair], facts), compute_type=self.compute_type
        )
        _log.debug("refreshed weights are at most %.2g nats from the live", agreement.max_nats)
        return dataclasses.replace(
            earlier,
            converted=converted,
            workers=workers,
            agreement=agreement,
            refreshes=earlier.refreshes + 1,
        )

    def workers(self, converted: ConvertedModel, count: int, compute_type: str) -> Any:
        """A pool of `count` workers of one thread each."""
        engine = ctranslate2.Translator if self.kind == "seq2seq" else ctranslate2.Generator
        return engine(
            "in memory",
            device="cpu",
            compute_type=compute_type,
            inter_threads=count,
            intra_threads=1,
            max_queued_batches=-1,
            files=converted.files,
        )


def _require_shapes(
    found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    if found == expected:
        return
    changed = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    raise ModelError(
        "Weights can be refreshed from a model of the same shapes only, but "
        f"{changed[0]!r} was {expected.get(changed[0])} and is {found.get(changed[0])} "
        f"({len(changed)} differ); load the model again"
    )


def _scores(
    workers: Any, converted: ConvertedModel, pairs: Sequence[IdPair], facts: ModelFacts
) -> list[list[float]]:
    """log p of every target token as CTranslate2 scores it, one list a pair."""
    if facts.kind == "seq2seq":
        results = workers.score_batch(
            [converted.strings([*source]) for source, _ in pairs],
            # CTranslate2 adds the first end token to targets by itself.
            [converted.strings([*facts.prefix_ids, *target[:-1]]) for _, target in pairs],
            max_input_length=0,
        )
    else:
        results = workers.score_batch(
            [converted.strings([*source, *target]) for source, target in pairs],
            max_input_length=0,
        )
    scores = []
    for (_, target), result in zip(pairs, results, strict=True):
        # The strings must come back as the ids they were made from.
        if converted.ids(result.tokens[-len(target) :]) != tuple(target):
            raise EngineError(
                "The converted model must read the tokens it is given, but it read others: "
                "the vocabulary does not fit"
            )
        scores.append([float(value) for value in result.log_probs[-len(target) :]])
    return scores
